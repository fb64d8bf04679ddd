// Numbers for test data that look random and are the same in every run.

/** Draws multiples of 2^-32 in [0, 1), by a linear congruential generator. */
export function uniforms(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Numbers between -1/2 and 1/2 that float32 holds. */
export function plainNumbers(count: number, seed: number): number[] {
  const next = uniforms(seed);
  return Array.from({ length: count }, () => Math.fround(next() - 0.5));
}
