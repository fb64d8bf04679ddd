// The WebAssembly reductions. What they compute is defined in core/ops/reduce.ts; this turns tiles and blocks into
// addresses, and all pairs of many vectors into products of two or three of them.
import type { Reduce } from "../../core/ops/reduce.ts";
import { DTYPE } from "./host-values.ts";

/** The functions of kernels.wasm that this file calls; addresses in bytes. */
export type ReduceExports = {
  readonly dot: (a: number, b: number, count: number) => number;
  readonly multiplyStored: (
    ...args: [dtype: number, x: number, y: number, z: number, base: number, count: number, tileElements: number]
  ) => void;
  readonly storedProducts: () => number;
};

/** An address that no vector has. */
const NONE = 0;

/** Reductions over an instance and its memory. */
export function hostReduce(wasm: ReduceExports, buffer: ArrayBuffer): Reduce {
  const products = new Float64Array(buffer, wasm.storedProducts(), 3);
  return {
    dot: (a, b, count) => wasm.dot(a.address, b.address, count),
    addProducts(gram, { dtype, base, sources, byteOffset }, count, tileElements) {
      const n = sources.length;
      const origin = base === undefined ? NONE : base.address + byteOffset;
      const at = (index: number): number => (sources[index]?.address ?? 0) + byteOffset;
      /** Products of vectors, each added to its entry of the gram matrix; undefined: one that is known already. */
      const multiply = (
        i: number,
        j: number,
        k: number | undefined,
        entries: readonly (number | undefined)[],
      ): void => {
        for (const [product, entry] of entries.entries()) if (entry !== undefined) products[product] = gram[entry] ?? 0;
        wasm.multiplyStored(DTYPE[dtype], at(i), at(j), k === undefined ? NONE : at(k), origin, count, tileElements);
        for (const [product, entry] of entries.entries()) if (entry !== undefined) gram[entry] = products[product] ?? 0;
      };
      for (let i = 0; i < n; i += 2) {
        const j = Math.min(i + 1, n - 1);
        const isPair = j > i;
        // An odd one at the end has been multiplied with itself beside the first pair.
        if (isPair) multiply(i, j, undefined, [i * n + i, i * n + j, j * n + j]);
        else if (n === 1) multiply(i, i, undefined, [0]);
        for (let k = i + 2; k < n; k++) {
          const own = i === 0 && k === n - 1 && n % 2 === 1 ? k * n + k : undefined;
          multiply(i, j, k, [i * n + k, j * n + k, own]);
        }
      }
    },
  };
}
