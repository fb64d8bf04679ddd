// How far models pull an element in different directions: the meaning of the operations, in plain TypeScript.
import type { Tile } from "./memory.ts";

export type Signs = {
  /**
   * Notes the signs of a[i] in `marks`, a tile whose words hold bits: 1 when a positive value was seen at i, 2 when a
   * negative one. The first call for a tile (`isFirst`) clears what was there. Zeros and NaN leave no mark.
   */
  markSigns(marks: Tile, a: Tile, isFirst: boolean, count: number): void;
  /** How many of the first `count` words hold both bits. */
  countConflicts(marks: Tile, count: number): number;
};

/** The words of a tile. */
function words(tile: Tile): Uint32Array {
  return new Uint32Array(tile.values.buffer, tile.values.byteOffset, tile.values.length);
}

export const scalarSigns: Signs = Object.freeze({
  markSigns(marks, a, isFirst, count) {
    const bits = words(marks);
    for (let index = 0; index < count; index++) {
      const value = a.values[index] ?? 0;
      const seen = isFirst ? 0 : (bits[index] ?? 0);
      bits[index] = seen | (value > 0 ? 1 : 0) | (value < 0 ? 2 : 0);
    }
  },
  countConflicts(marks, count) {
    return words(marks)
      .subarray(0, count)
      .reduce((sum, bits) => sum + (bits === 3 ? 1 : 0), 0);
  },
} satisfies Signs);
