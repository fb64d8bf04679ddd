// Normal numbers for tests of schemes: what weights are like, from a seed.

/** Normal numbers by the method of Box and Muller, from a generator of 32 bits. */
export function gaussians(count: number, seed: number): Float32Array {
  let state = seed + 0x9e3779b9;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => {
    return Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  });
}
