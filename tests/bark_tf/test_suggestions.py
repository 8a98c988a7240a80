from bark_tf.suggestions import did_you_mean


def test_the_most_similar_names_come_first():
    known = ["speak", "serve", "voices", "voice"]
    assert did_you_mean("speek", known) == " Did you mean 'speak'?"
    assert did_you_mean("voic", known) == " Did you mean 'voice' or 'voices'?"
    assert did_you_mean("train", known) == ""
