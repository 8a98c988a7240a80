// Sound in the browser: WAV, playing while it arrives, recording.

const SCALE = 2 ** 15;

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
}

/** A 16-bit mono WAV file. */
export function wavOf(samples, rate) {
  const head = new DataView(new ArrayBuffer(44));
  const write = (at, word) =>
    [...word].forEach((char, i) => head.setUint8(at + i, char.charCodeAt(0)));
  const size = 2 * samples.length;
  write(0, "RIFF");
  head.setUint32(4, 36 + size, true);
  write(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true); // PCM
  head.setUint16(22, 1, true); // channels
  head.setUint32(24, rate, true);
  head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  write(36, "data");
  head.setUint32(40, size, true);
  const body = new Uint8Array(size);
  const view = new DataView(body.buffer);
  samples.forEach((sample, i) => {
    const value = Math.round(sample * SCALE);
    view.setInt16(2 * i, Math.max(-SCALE, Math.min(SCALE - 1, value)), true);
  });
  return new Blob([head, body], { type: "audio/wav" });
}

/** A WAV file that arrives in pieces. */
export class WavReader {
  rate = 0;
  #pieces = [];

  /** Takes the next bytes; returns their samples. */
  add(bytes) {
    const start = this.rate ? 0 : this.#readHead(bytes);
    const view = new DataView(bytes.buffer, start);
    const samples = new Float32Array(Math.floor(view.byteLength / 2));
    samples.forEach((_, i) => (samples[i] = view.getInt16(2 * i, true) / SCALE));
    this.#pieces.push(samples);
    return samples;
  }

  /** Reads the rate; returns where the samples start. */
  #readHead(bytes) {
    const view = new DataView(bytes.buffer);
    const nameAt = (at) => String.fromCharCode(...bytes.subarray(at, at + 4));
    let at = 12;
    for (; nameAt(at) !== "data"; at += 8 + view.getUint32(at + 4, true)) {
      if (nameAt(at) === "fmt ") this.rate = view.getUint32(at + 12, true);
    }
    return at + 8;
  }

  get samples() {
    const all = new Float32Array(this.#pieces.reduce((sum, p) => sum + p.length, 0));
    let at = 0;
    for (const piece of this.#pieces) {
      all.set(piece, at);
      at += piece.length;
    }
    return all;
  }
}

/** Plays pieces one after the other, as they come. Make it in a handler of a click. */
export class Player {
  #context;
  #end = 0;

  constructor(rate) {
    this.#context = new AudioContext({ sampleRate: rate });
    this.#context.resume();
  }

  add(samples) {
    const { sampleRate, currentTime, destination, state } = this.#context;
    if (state === "closed" || !samples.length) return;
    const buffer = this.#context.createBuffer(1, samples.length, sampleRate);
    buffer.copyToChannel(samples, 0);
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(destination);
    this.#end = Math.max(this.#end, currentTime + 0.05);
    source.start(this.#end);
    this.#end += buffer.duration;
  }

  close() {
    if (this.#context.state !== "closed") this.#context.close();
  }
}

/** The sound of a file of any kind that the browser knows, mono. */
export async function decoded(blob, rate) {
  const context = new OfflineAudioContext(1, 1, rate);
  const buffer = await context.decodeAudioData(await blob.arrayBuffer());
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, i) =>
    buffer.getChannelData(i),
  );
  return channels[0].map(
    (_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length,
  );
}

/** Records from the microphone until `stop` is called; `blob` resolves then. */
export async function startRecording() {
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { echoCancellation: false },
  });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const blob = new Promise((resolve) => {
    recorder.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      resolve(new Blob(parts, { type: recorder.mimeType }));
    };
  });
  recorder.start();
  return { blob, stop: () => recorder.state === "recording" && recorder.stop() };
}
