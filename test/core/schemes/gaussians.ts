// Normal numbers for tests of schemes: what weights are like, from a seed.
import { uniforms } from "../../random-numbers.ts";

/** Normal numbers by the method of Box and Muller. */
export function gaussians(count: number, seed: number): Float32Array {
  const next = uniforms(seed + 0x9e3779b9);
  // Never 0, whose logarithm is infinite.
  const uniform = () => next() + 2 ** -33;
  return Float32Array.from({ length: count }, () => {
    return Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  });
}
