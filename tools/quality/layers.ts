// What both small models have beside linear layers: norms, attention, activations. float32 storage, float64 between.

/** Rows of `width` numbers, each normalised to mean 0 and variance 1 (population), times gain plus bias. */
export function layerNorm(
  y: Float32Array,
  x: Float32Array,
  { rows, width, epsilon }: { readonly rows: number; readonly width: number; readonly epsilon: number },
  gain: Float32Array,
  bias: Float32Array,
): void {
  for (let row = 0; row < rows; row++) {
    const at = row * width;
    let [sum, squares] = [0, 0];
    for (let i = 0; i < width; i++) sum += x[at + i] ?? 0;
    const mean = sum / width;
    for (let i = 0; i < width; i++) squares += ((x[at + i] ?? 0) - mean) ** 2;
    const scale = 1 / Math.sqrt(squares / width + epsilon);
    for (let i = 0; i < width; i++) y[at + i] = ((x[at + i] ?? 0) - mean) * scale * (gain[i] ?? 0) + (bias[i] ?? 0);
  }
}

/** x / sqrt(mean(x^2) + epsilon) times gain, row by row. */
export function rmsNorm(
  y: Float32Array,
  x: Float32Array,
  { rows, width, epsilon }: { readonly rows: number; readonly width: number; readonly epsilon: number },
  gain: Float32Array,
): void {
  for (let row = 0; row < rows; row++) {
    const at = row * width;
    let squares = 0;
    for (let i = 0; i < width; i++) squares += (x[at + i] ?? 0) ** 2;
    const scale = 1 / Math.sqrt(squares / width + epsilon);
    for (let i = 0; i < width; i++) y[at + i] = (x[at + i] ?? 0) * scale * (gain[i] ?? 0);
  }
}

/** x += y for the first `count` numbers. */
export function add(x: Float32Array, y: Float32Array, count: number): void {
  for (let i = 0; i < count; i++) x[i] = (x[i] ?? 0) + (y[i] ?? 0);
}

/** GELU in its tanh form, in place. */
export function gelu(x: Float32Array, count: number): void {
  const slope = 2 * Math.sqrt(2 / Math.PI);
  for (let i = 0; i < count; i++) {
    const t = x[i] ?? 0;
    // t (1 + tanh(u)) / 2 = t / (1 + exp(-2 u))
    x[i] = t / (1 + Math.exp(-slope * (t + 0.044715 * t * t * t)));
  }
}

/** gate = silu(gate) * up. */
export function gateSilu(gate: Float32Array, up: Float32Array, count: number): void {
  for (let i = 0; i < count; i++) {
    const t = gate[i] ?? 0;
    gate[i] = (t / (1 + Math.exp(-t))) * (up[i] ?? 0);
  }
}

export type AttentionShape = {
  readonly sequences: number;
  /** Positions of one sequence. */
  readonly length: number;
  readonly heads: number;
  readonly sharing: number;
  readonly headWidth: number;
  readonly causal: boolean;
};

/**
 * softmax(q k^T / sqrt(headWidth)) v. Shapes: q, y [sequences * length, heads * headWidth]; k, v the same with
 * heads / sharing heads, head j of q using head j div sharing.
 */
export function attention(
  y: Float32Array,
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  shape: AttentionShape,
): void {
  const { sequences, length, heads, sharing, headWidth, causal } = shape;
  const [width, keyWidth] = [heads * headWidth, (heads / sharing) * headWidth];
  const weights = new Float32Array(length);
  for (let sequence = 0; sequence < sequences; sequence++) {
    const first = sequence * length;
    for (let head = 0; head < heads; head++) {
      const keyColumn = Math.floor(head / sharing) * headWidth;
      for (let row = 0; row < length; row++) {
        const at = (first + row) * width + head * headWidth;
        const seen = causal ? row + 1 : length;
        const keys = { values: k, at: first * keyWidth + keyColumn, stride: keyWidth };
        const total = attend(weights, q, at, keys, seen, headWidth);
        for (let i = 0; i < headWidth; i++) {
          let sum = 0;
          for (let other = 0, from = keys.at + i; other < seen; other++, from += keyWidth) {
            sum += (weights[other] ?? 0) * (v[from] ?? 0);
          }
          y[at + i] = sum / total;
        }
      }
    }
  }
}

/** Unnormalised softmax weights of one query over `seen` keys, and their sum. */
function attend(
  weights: Float32Array,
  q: Float32Array,
  at: number,
  keys: { readonly values: Float32Array; readonly at: number; readonly stride: number },
  seen: number,
  headWidth: number,
): number {
  const scale = 1 / Math.sqrt(headWidth);
  let largest = Number.NEGATIVE_INFINITY;
  for (let other = 0, from = keys.at; other < seen; other++, from += keys.stride) {
    let sum = 0;
    for (let i = 0; i < headWidth; i++) sum += (q[at + i] ?? 0) * (keys.values[from + i] ?? 0);
    weights[other] = sum * scale;
    largest = Math.max(largest, sum * scale);
  }
  let total = 0;
  for (let other = 0; other < seen; other++) {
    const weight = Math.exp((weights[other] ?? 0) - largest);
    weights[other] = weight;
    total += weight;
  }
  return total;
}
