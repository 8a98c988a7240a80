// What the page asks the server for. Addresses are relative, so that a proxy may put the
// page into a folder.

let token = "";

export function setToken(value) {
  token = value;
}

/** An error in words for the user, about a field of the page if one is named. */
export class Refusal extends Error {
  constructor(message, field = "", status = 0) {
    super(message);
    this.field = field;
    this.status = status;
  }
}

function refusalOf({ message, param }, status) {
  const field = (param ?? "").split(".")[0];
  const name = field === "history_prompt" ? "voice" : field;
  return new Refusal(message.replace(`${param}: `, ""), name, status);
}

async function ask(address, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(address, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw refusalOf(body.error ?? { message: "The server failed" }, response.status);
}

export async function settings() {
  return (await ask("page/settings")).json();
}

/** Sends a recording, a WAV blob; resolves to the voice made of it. */
export async function makeVoice(recording, consent, signal) {
  const options = { method: "POST", body: recording, signal };
  return (await ask(`page/voice?consent=${consent}`, options)).json();
}

/** Yields the events of a speech; the first one is its seed. */
export async function* speak(request, signal) {
  const fixed = { model: "tts-1", response_format: "wav", stream_format: "sse" };
  const response = await ask("v1/audio/speech", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...fixed, ...request }),
    signal,
  });
  yield { type: "seed", seed: response.headers.get("X-Seed") };
  yield* events(response);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refusal("The speech broke off. Is the server still running?");
    const lines = (text + value).split("\n\n");
    text = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line.slice("data: ".length));
      if (event.type === "error") throw refusalOf(event.error, response.status);
      yield event;
      if (event.type === "speech.audio.done") return;
    }
  }
}
