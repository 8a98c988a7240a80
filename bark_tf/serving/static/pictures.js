// Pictures of sound, in the colours of the page.

const FFT_SIZE = 512;
const RANGE_DB = 70;

/** Fits a canvas to its place on the screen; returns its context and size in pixels. */
function prepared(canvas) {
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = `${canvas.dataset.height ??= canvas.height}px`;
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  canvas.height = Math.max(1, Math.round(canvas.dataset.height * ratio));
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(canvas).getPropertyValue("--accent");
  return { context, width: canvas.width, height: canvas.height };
}

/** Draws samples as high as the canvas; returns their peak. */
export function drawWaveform(canvas, samples) {
  const { context, width, height } = prepared(canvas);
  const peak = samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const scale = height / 2 / Math.max(peak, 1e-3);
  const step = samples.length / width;
  for (let x = 0; x < width; x++) {
    let low = 0;
    let high = 0;
    const end = Math.ceil((x + 1) * step);
    for (let i = Math.floor(x * step); i < end && i < samples.length; i++) {
      low = Math.min(low, samples[i]);
      high = Math.max(high, samples[i]);
    }
    context.fillRect(x, height / 2 - high * scale, 1, Math.max(1, (high - low) * scale));
  }
  return peak;
}

export function drawSpectrogram(canvas, samples) {
  const { context, width, height } = prepared(canvas);
  const [red, green, blue] = [1, 3, 5].map((at) =>
    parseInt(context.fillStyle.slice(at, at + 2), 16),
  );
  const columns = Math.min(width, Math.ceil(samples.length / 64));
  const levels = Array.from({ length: columns }, (_, x) =>
    levelsAt(samples, Math.round(((x + 0.5) / columns) * samples.length)),
  );
  const loudest = levels.reduce((most, column) => Math.max(most, ...column), -Infinity);
  const bins = FFT_SIZE / 2;
  const image = new ImageData(columns, bins);
  levels.forEach((column, x) =>
    column.forEach((level, bin) => {
      const share = Math.max(0, 1 + (level - loudest) / RANGE_DB);
      const at = 4 * ((bins - 1 - bin) * columns + x);
      image.data.set([red, green, blue, 255 * share], at);
    }),
  );
  const small = new OffscreenCanvas(columns, bins);
  small.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(small, 0, 0, width, height);
}

/** Levels in dB around a sample, from 0 Hz to half of the sample rate. */
function levelsAt(samples, centre) {
  const real = new Float64Array(FFT_SIZE);
  const imaginary = new Float64Array(FFT_SIZE);
  const start = centre - FFT_SIZE / 2;
  for (let i = 0; i < FFT_SIZE; i++) {
    const hann = 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / FFT_SIZE);
    real[i] = hann * (samples[start + i] ?? 0);
  }
  transform(real, imaginary);
  return Array.from({ length: FFT_SIZE / 2 }, (_, bin) =>
    10 * Math.log10(real[bin] ** 2 + imaginary[bin] ** 2 + 1e-12),
  );
}

/** Fourier transform in place; the length is a power of two. */
function transform(real, imaginary) {
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [real[i], real[j]] = [real[j], real[i]];
  }
  for (let half = 1; half < size; half *= 2) {
    for (let k = 0; k < half; k++) {
      const cosine = Math.cos((Math.PI * k) / half);
      const sine = -Math.sin((Math.PI * k) / half);
      for (let low = k; low < size; low += 2 * half) {
        const high = low + half;
        const re = real[high] * cosine - imaginary[high] * sine;
        const im = real[high] * sine + imaginary[high] * cosine;
        [real[high], imaginary[high]] = [real[low] - re, imaginary[low] - im];
        real[low] += re;
        imaginary[low] += im;
      }
    }
  }
}
