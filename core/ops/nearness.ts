// Interpolation that depends on how near two values are: the meaning of the operation, in plain TypeScript.
import type { Tile } from "./memory.ts";

/** Differences below this count as this large. Source: merge reference section 4.13. */
const NEARNESS_FLOOR = 1e-6;

export type Nearness = {
  /**
   * target[i] = q a[i] + (1 - q) base[i] with q = clamp(t (1 / max(|a[i] - base[i]|, 1e-6)), 0, 1). Every operation
   * rounds once to float32, the reciprocal before its product with t; NaN stays NaN. `target` is neither source.
   */
  swapNear(target: Tile, a: Tile, base: Tile, t: number, count: number): void;
};

const { fround } = Math;

export const scalarNearness: Nearness = Object.freeze({
  swapNear(target, a, base, t, count) {
    const floor = fround(NEARNESS_FLOOR);
    for (let i = 0; i < count; i++) {
      const [value, origin] = [a.values[i] ?? 0, base.values[i] ?? 0];
      const distance = fround(Math.abs(fround(value - origin)));
      const share = fround(fround(1 / Math.max(distance, floor)) * fround(t));
      const q = Math.min(Math.max(share, 0), 1);
      target.values[i] = fround(q * value) + fround(fround(1 - q) * origin);
    }
  },
} satisfies Nearness);
