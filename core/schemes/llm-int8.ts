// LLM.int8(): signed bytes, each channel under the largest magnitude that it had. Read from bitsandbytes folders and
// written nowhere.
// Source: LLM.int8(), arXiv:2208.07339; bitsandbytes, nn/modules.py: Linear8bitLt, _ops.py: int8_vectorwise_dequant.
import { viewOf } from "../data-view.ts";
import { partOf, type StoredScheme } from "./scheme.ts";

const f = Math.fround;
/** 1 / 127 to the digits that bitsandbytes writes it with, as it multiplies by it. */
const STEP = f(7.874015718698502e-3);

/** x ~ (q SCB) / 127, every step in float32. */
export const LLM_INT8 = Object.freeze({
  id: "llm_int8",
  title: "bitsandbytes, 8 bits, scale for a channel",
  needs: "row",
  columnUnit: 1,
  rowsTogether: () => 1,
  parts: ({ rows, columns }) => [
    { name: "weight", dtype: "I8", shape: [rows, columns], along: { slices: 1, rows: 1 } },
    { name: "SCB", dtype: "F32", shape: [rows], along: { slices: 1, rows: 1 } },
  ],
  dequantize(window) {
    const [codes, scales] = [viewOf(partOf(window, "weight")), viewOf(partOf(window, "SCB"))];
    const { columns } = window.matrix;
    for (let row = 0; row < window.count; row++) {
      const scale = scales.getFloat32(4 * row, true);
      for (let i = row * columns; i < (row + 1) * columns; i++)
        window.values[i] = f(f(codes.getInt8(i) * scale) * STEP);
    }
  },
} satisfies StoredScheme);
