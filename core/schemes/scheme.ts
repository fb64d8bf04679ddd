// What a quantization scheme is: a frozen object of declared properties and two pure functions over rows of float32.
// The writers of containers and the planner read the properties; neither asks which scheme it is. Adding one: its
// object in a file here, a line in registry.ts, a golden case.
import assert from "node:assert/strict";

/** What must be seen at once to quantize: one block, a whole row (one output channel), or the whole tensor. */
export type SchemeNeeds = "stream" | "row" | "tensor";

export type BlockScheme = {
  /** As files and tools in the wild spell it, in lower case. */
  readonly id: string;
  readonly title: string;
  /** Where the layout and the algorithm come from. */
  readonly source: string;
  /** Elements of one block; a row holds whole blocks. */
  readonly blockElements: number;
  readonly blockBytes: number;
  readonly needs: SchemeNeeds;
  /** ignored: an importance matrix changes nothing; else what must be seen at once when there is one. */
  readonly importance: "ignored" | SchemeNeeds;
  /**
   * Bytes of one row. `target` holds exactly the row's blocks; `importance` is one value >= 0 for each element of the
   * row (mean square of that input), left out when there is none. Order and rounding: every operation rounds to
   * float32, products are not fused, sums run from index 0, so that the bytes are those of the reference. Values must
   * be finite.
   */
  quantize(row: Float32Array, target: Uint8Array, importance?: Float32Array): void;
  /** Values of one row of blocks, each operation rounded to float32. */
  dequantize(source: Uint8Array, target: Float32Array): void;
};

/** Bytes of a row of `count` elements; `count` is a multiple of the block. */
export function rowBytes(scheme: Pick<BlockScheme, "blockElements" | "blockBytes">, count: number): number {
  assert.ok(count % scheme.blockElements === 0, "a row holds whole blocks");
  return (count / scheme.blockElements) * scheme.blockBytes;
}
