import { drawSpectrogram, drawWaveform } from "./pictures.js";
import { Refusal, makeVoice, setToken, settings, speak } from "./server.js";
import { Player, WavReader, bytesOf, decoded, startRecording, wavOf } from "./sound.js";

const STAGES = { semantic: "text", coarse: "voice", fine: "details", codec: "sound" };
const TEMPERATURES = ["semantic", "coarse", "fine"].map((name) => `${name}_temperature`);
const MAX_RECORDING_S = 15;

const byId = (id) => document.getElementById(id);
const valueOf = (id) => byId(id).value.trim();

let own = {}; // the settings of the server
let shown = null; // { samples, rate } of the pictures
let stopSpeaking = null; // while a text is spoken
let stopVoice = null; // while a voice is recorded or made
let player = null;
const recordedVoices = new Map(); // value of the option -> { history_prompt, file }

// === Messages ===

/** Shows an error beside its field, or else beside another one. */
function showError(error, otherField) {
  const name = byId(`${error.field}-error`) ? error.field : otherField;
  const field = byId(name);
  byId(`${name}-error`).textContent = error.message;
  if (field.matches("input, select, textarea")) {
    field.setAttribute("aria-invalid", "true");
  }
  field.focus();
}

function clearErrors(part) {
  for (const place of byId(part).querySelectorAll(".error")) place.textContent = "";
  for (const field of byId(part).querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
  }
}

/** Shows what went wrong; a cancelled request is no error. */
function explain(error, otherField, status) {
  const isCancelled = error.name === "AbortError";
  say(status, isCancelled ? "Cancelled." : "");
  if (isCancelled) return;
  if (error.status === 401) {
    byId("access").hidden = false;
    showError(error, "token");
  } else if (error instanceof Refusal) {
    showError(error, otherField);
  } else {
    console.error(error);
    showError(new Refusal(`It failed: ${error}`), otherField);
  }
}

// Screen readers read a status aloud, so it changes only when its words do.
function say(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

// === Speech ===

/** What can be seen without asking the server, which checks everything again. */
function check({ input, seed, ...others }) {
  const count = charactersOf(input);
  if (!input.trim()) throw new Refusal("Write something to say first.", "input");
  if (count > own.max_characters) {
    throw new Refusal(`The text is too long: ${limitWords(count)}.`, "input");
  }
  if (!/^\d*$/.test(seed ?? "")) {
    throw new Refusal("A seed is a whole number, such as 7.", "seed");
  }
  for (const name of TEMPERATURES) {
    if (!(Number(others[name] ?? 0) >= 0)) {
      throw new Refusal("A temperature is a number of at least 0, such as 0.7.", name);
    }
  }
}

/** The request, and the voice as the command line names it. */
function request() {
  const body = { input: byId("input").value };
  for (const name of ["seed", ...TEMPERATURES]) {
    if (valueOf(name)) body[name] = valueOf(name);
  }
  const voice = byId("voice").value;
  const recorded = recordedVoices.get(voice);
  if (recorded) body.history_prompt = recorded.history_prompt;
  else body.voice = voice;
  return { body, voice: recorded?.file ?? voice };
}

async function onSpeak() {
  if (stopSpeaking || !own.voices) return;
  clearErrors("speech");
  player?.close();
  byId("audio").pause();
  const { body, voice } = request();
  setSpeaking(new AbortController());
  try {
    check(body);
    player = byId("play").checked ? new Player(own.sample_rate) : null;
    await hear(body, voice, new WavReader());
  } catch (error) {
    player?.close();
    // What was spoken before stays, half a speech does not.
    if (byId("audio").hidden) byId("result").hidden = true;
    explain(error, "speak", "status");
  } finally {
    setSpeaking(null);
  }
}

function setSpeaking(controller) {
  const isFocused = document.activeElement === byId("cancel");
  stopSpeaking = controller;
  byId("progress").hidden = byId("cancel").disabled = !controller;
  byId("progress").value = 0;
  byId("speak").setAttribute("aria-disabled", String(Boolean(controller)));
  if (isFocused && !controller) byId("speak").focus();
}

async function hear(body, voice, wav) {
  let seed;
  byId("result").hidden = byId("unknown").hidden = true;
  say("status", "Sending the text");
  for await (const event of speak(body, stopSpeaking.signal)) {
    if (event.type === "seed") seed = event.seed;
    else if (event.type === "speech.progress") showProgress(event);
    else if (event.type === "speech.unknown_words") showUnknown(event.words);
    else if (event.type === "speech.audio.delta") {
      const samples = wav.add(bytesOf(event.audio));
      player?.add(samples);
      showPictures(wav);
    }
  }
  showResult(wav, seed, commandOf(body, voice, seed));
}

function showProgress({ stage, done, total, piece, pieces, ahead }) {
  const index = Object.keys(STAGES).indexOf(stage);
  const within = index < 0 ? 0 : (index + done / Math.max(1, total)) / 4;
  byId("progress").value = (piece - 1 + within) / pieces;
  const waiting = ahead ? `waiting, ${ahead} before this one` : "waiting";
  say("status", `Sentence ${piece} of ${pieces}: ${STAGES[stage] ?? waiting}`);
}

function showUnknown(words) {
  byId("unknown").textContent =
    `The model does not know these words, and may say them wrongly: ${words.join(", ")}`;
  byId("unknown").hidden = false;
}

function showPictures(wav) {
  const isFirst = byId("result").hidden;
  byId("result").hidden = false;
  shown = { samples: wav.samples, rate: wav.rate };
  if (isFirst) {
    for (const id of ["audio", "download", "keep", "again"]) byId(id).hidden = true;
  }
  draw();
}

function draw() {
  if (!shown || byId("result").hidden) return;
  const { samples, rate } = shown;
  const seconds = `${(samples.length / rate).toFixed(1)} seconds`;
  const peak = drawWaveform(byId("waveform"), samples);
  drawSpectrogram(byId("spectrogram"), samples);
  const range = { waveform: `peak ${Math.round(100 * peak)} % of full scale` };
  range.spectrogram = `0 to ${rate / 2000} kHz`;
  for (const [name, words] of Object.entries(range)) {
    const title = name[0].toUpperCase() + name.slice(1);
    byId(name).ariaLabel = `${title} of ${seconds}, ${words}`;
    byId(`${name}-caption`).textContent = `${title}, ${words}`;
  }
}

function showResult(wav, seed, command) {
  const { samples, rate } = shown;
  URL.revokeObjectURL(byId("audio").src);
  byId("audio").src = byId("download").href = URL.createObjectURL(wavOf(samples, rate));
  byId("download").download = `speech-${seed}.wav`;
  byId("keep").dataset.seed = seed;
  byId("command").textContent = command;
  for (const id of ["audio", "download", "keep", "again"]) byId(id).hidden = false;
  say("status", `Done: ${(samples.length / rate).toFixed(1)} seconds, seed ${seed}.`);
}

function commandOf(body, voice, seed) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const words = ["bark-tf speak --long --seed", seed];
  if (voice !== "default") words.push("--voice", quoted(voice));
  for (const name of TEMPERATURES) {
    if (name in body) words.push(`--${name.replace("_", "-")}`, quoted(body[name]));
  }
  return [...words, "--", quoted(body.input)].join(" ");
}

// === A voice of one's own ===

function checkConsent() {
  if (byId("consent").checked) return;
  throw new Refusal("Please confirm this first.", "consent");
}

async function onRecord() {
  if (stopVoice) return stopVoice.stop();
  await withVoice(async (controller) => {
    checkConsent();
    if (!navigator.mediaDevices) {
      throw new Refusal(
        "The browser records only over https or on this computer. Use a file instead.",
        "recording",
      );
    }
    const recording = await startRecording().catch((error) => {
      throw new Refusal(
        `The microphone cannot be used (${error.message}). Use a file instead.`,
        "recording",
      );
    });
    const clock = showSeconds(recording.stop);
    controller.stop = recording.stop;
    controller.signal.addEventListener("abort", recording.stop);
    if (controller.signal.aborted) recording.stop(); // before it had begun
    const blob = await recording.blob.finally(() => clearInterval(clock));
    controller.signal.throwIfAborted();
    return blob;
  });
}

function showSeconds(stop) {
  const start = Date.now();
  byId("recording").textContent = "Stop (0 s)";
  return setInterval(() => {
    const seconds = Math.floor((Date.now() - start) / 1000);
    byId("recording").textContent = `Stop (${seconds} s)`;
    if (seconds >= MAX_RECORDING_S) stop();
  }, 250);
}

/** Makes a voice of the sound that `listen` resolves to. */
async function withVoice(listen) {
  if (stopVoice) return;
  clearErrors("recorder");
  const controller = new AbortController();
  controller.stop = () => {};
  stopVoice = controller;
  try {
    const blob = await listen(controller);
    byId("recording").textContent = "Record";
    say("recorder-status", "Making the voice");
    const wav = await wavFor(blob);
    showVoice(await makeVoice(wav, byId("consent").checked, controller.signal));
  } catch (error) {
    explain(error, "recording", "recorder-status");
  } finally {
    byId("recording").textContent = "Record";
    stopVoice = null;
  }
}

async function wavFor(blob) {
  try {
    return wavOf(await decoded(blob, own.sample_rate), own.sample_rate);
  } catch {
    throw new Refusal("There is no sound that the browser can read.", "recording");
  }
}

function showVoice(made) {
  const number = recordedVoices.size + 1;
  const name = `Recorded ${number}`;
  const file = `voice-${number}.npz`;
  const link = byId("recorded-file");
  const urlOf = (base64, type) =>
    URL.createObjectURL(new Blob([bytesOf(base64)], { type }));
  recordedVoices.set(name, { history_prompt: made.history_prompt, file });
  byId("voice").add(new Option(name, name, true, true));
  byId("recorded-audio").src = urlOf(made.sound, "audio/wav");
  link.href = urlOf(made.npz, "application/octet-stream");
  link.download = file;
  byId("recorded-report").textContent = made.report;
  byId("recorded-warnings").replaceChildren(
    ...made.warnings.map((text) =>
      Object.assign(document.createElement("li"), { textContent: text }),
    ),
  );
  byId("recorded").hidden = false;
  say("recorder-status", `Done: the voice "${name}" is chosen above.`);
}

// === The page ===

// As Python counts.
const charactersOf = (text) => [...text].length;

function limitWords(count) {
  const [number, limit] = [count, own.max_characters].map((n) => n.toLocaleString("en"));
  return `${number} of at most ${limit} characters`;
}

function countCharacters() {
  if (!own.voices) return;
  const count = charactersOf(byId("input").value);
  byId("input-count").textContent = limitWords(count);
  byId("input-count").classList.toggle("over", count > own.max_characters);
}

function setUp() {
  byId("about").textContent = `${own.about[0].toUpperCase()}${own.about.slice(1)}.`;
  const voices = [...own.voices, ...recordedVoices.keys()];
  byId("voice").replaceChildren(...voices.map((name) => new Option(name)));
  byId("voice").value = "default";
  for (const [name, value] of Object.entries(own.temperatures)) {
    byId(name).placeholder = String(value);
  }
  const consent = own.consent;
  byId("consent-text").textContent = `${consent[0].toUpperCase()}${consent.slice(1)}.`;
  if (!own.makes_voices) {
    byId("recorder-fields").hidden = true;
    byId("recorder-note").textContent =
      "This model has no semantic tokenizer, which recordings need. Start " +
      "bark-tf demo with --semantic-tokenizer.";
  }
  countCharacters();
}

async function start() {
  clearErrors("access");
  try {
    own = await settings();
    byId("access").hidden = true;
    setUp();
  } catch (error) {
    explain(error, "speak", "status");
  }
}

function onSubmit(form, action) {
  byId(form).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

function onKey(event) {
  if (event.key === "Escape") {
    stopSpeaking?.abort();
    stopVoice?.abort();
    player?.close();
  } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    onSpeak();
  }
}

onSubmit("speech", onSpeak);
onSubmit("access-form", () => {
  setToken(valueOf("token"));
  start();
});
document.addEventListener("keydown", onKey);
byId("input").addEventListener("input", countCharacters);
byId("cancel").addEventListener("click", () => stopSpeaking?.abort());
byId("audio").addEventListener("play", () => player?.close());
byId("keep").addEventListener("click", ({ currentTarget }) => {
  byId("seed").value = currentTarget.dataset.seed;
  byId("seed").focus();
});
byId("recording").addEventListener("click", onRecord);
byId("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (file) withVoice(() => (checkConsent(), file));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
window.addEventListener("resize", draw);
start();
