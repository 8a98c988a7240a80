import threading
from time import monotonic, sleep

import pytest
from toy_serving import WAIT_S

from bark_tf.serving.batching import Batcher, Gone, Row


class Speaker:
    """Answers each row with its input; `batches` has the inputs of every batch."""

    def __init__(self):
        self.batches, self.failing = [], ()
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, rows, report):
        batch = [row.inputs for row in rows]
        self.batches.append(batch)
        self.begun.set()
        while not self.go.wait(0.01):
            report("semantic", 0, 1)
        if set(self.failing) & set(batch):
            raise ValueError("no")
        return batch


@pytest.fixture
def speaker():
    return Speaker()


@pytest.fixture
def counts():
    return []


@pytest.fixture
def queue(speaker, counts):
    queue = Batcher(speaker, 4, 0.0, lambda rows, seconds: counts.append(rows))
    yield queue
    speaker.go.set()
    queue.close()


@pytest.fixture
def add(queue, speaker):
    """Adds a row; the first one is being spoken before others are added."""

    def add(name, is_gone=lambda: False, **options):
        row = Row(name, options, is_gone)
        queue.add(row)
        assert speaker.begun.wait(WAIT_S)
        return row

    return add


def test_rows_that_wait_are_spoken_together_in_their_order(queue, speaker, add, counts):
    rows = [add(name) for name in range(7)]
    assert len(queue) == 6
    speaker.go.set()
    assert [row.spoken.result(WAIT_S) for row in rows] == list(range(7))
    assert speaker.batches == [[0], [1, 2, 3, 4], [5, 6]] and counts == [1, 4, 2]


def test_rows_know_who_is_first_and_hear_of_progress(queue, speaker, add):
    reports = []
    rows = [add(name) for name in range(3)]
    last = Row(3, {}, lambda: False, lambda *stage: reports.append(stage))
    queue.add(last)
    assert [queue.ahead(row) for row in (*rows, last)] == [0, 0, 1, 2]
    speaker.go.set()
    last.spoken.result(WAIT_S)
    assert queue.ahead(last) == 0 and set(reports) <= {("semantic", 0, 1)}


def test_only_equal_options_share_a_batch(speaker, add):
    rows = [add(name, temperature=name % 2) for name in range(6)]
    speaker.go.set()
    assert [row.spoken.result(WAIT_S) for row in rows] == list(range(6))
    assert speaker.batches == [[0], [1, 3, 5], [2, 4]]


def test_a_row_without_a_client_is_not_spoken(speaker, add):
    rows = [add(name) for name in range(3)]
    rows[1].spoken.cancel()
    speaker.go.set()
    assert rows[2].spoken.result(WAIT_S) == 2
    assert speaker.batches == [[0], [2]]


def test_a_batch_without_clients_stops(speaker, add):
    gone = [False, False]
    first = add(0, lambda: gone[0])
    gone[0] = True
    assert isinstance(first.spoken.exception(WAIT_S), Gone)
    speaker.go.set()
    assert add(1).spoken.result(WAIT_S) == 1


def test_a_row_that_fails_does_not_spoil_its_neighbours(speaker, add):
    rows = [add(name) for name in range(4)]
    speaker.failing = (2,)
    speaker.go.set()
    assert isinstance(rows[2].spoken.exception(WAIT_S), ValueError)
    assert [rows[i].spoken.result(WAIT_S) for i in (0, 1, 3)] == [0, 1, 3]


def test_rows_gather_before_a_batch(speaker):
    queue = Batcher(speaker, 2, WAIT_S, lambda rows, seconds: None)
    speaker.go.set()
    rows = [Row(name, {}, lambda: False) for name in range(2)]
    for row in rows:
        queue.add(row)
    assert [row.spoken.result(WAIT_S / 2) for row in rows] == [0, 1]
    assert speaker.batches == [[0, 1]]
    queue.close()


def test_closing_cancels_what_waits(queue, speaker, add):
    first, second = add(0), add(1)
    closing = threading.Thread(target=queue.close)
    closing.start()
    while not second.spoken.cancelled():
        pass
    speaker.go.set()
    closing.join(WAIT_S)
    assert first.spoken.result() == 0
    with pytest.raises(RuntimeError, match="closed"):
        queue.add(second)


def two_threads(speaker, gather_s):
    return Batcher(speaker, 4, gather_s, lambda rows, seconds: None, num_threads=2)


@pytest.mark.parametrize(
    ("gather_s", "batches"),
    # Twice the most of a batch wait for nobody; fewer wait, and are then shared.
    [(WAIT_S, [[0, 1, 2, 3], [4, 5, 6, 7]]), (0.5, [[0, 1], [2, 3]])],
)
def test_idle_threads_share_what_waits(speaker, gather_s, batches):
    queue = two_threads(speaker, gather_s)
    rows = [Row(name, {}, lambda: False) for name in range(batches[-1][-1] + 1)]
    for row in rows:
        queue.add(row)
    end = monotonic() + WAIT_S
    while len(speaker.batches) < 2 and monotonic() < end:
        sleep(0.01)
    assert sorted(speaker.batches) == batches
    assert len(queue) == 0 and not any(row.spoken.done() for row in rows)
    speaker.go.set()
    assert [row.spoken.result(WAIT_S) for row in rows] == list(range(len(rows)))
    queue.close()


def test_what_threads_leave_is_spoken_by_others(speaker):
    """If only one of the threads woke up, half of the rows would wait for ever."""
    speaker.go.set()
    queue = two_threads(speaker, 0.1)
    rows = [Row(name, {}, lambda: False) for name in range(3)]
    for row in rows:
        queue.add(row)
    assert [row.spoken.result(WAIT_S) for row in rows] == [0, 1, 2]
    queue.close()
