// Floats as schemes of blocks of one: rounding to a smaller float format and nothing else.
import { viewOf } from "../data-view.ts";
import { bfloat16ToFloat32 } from "../ops/cast.ts";
import { readHalf, writeHalf } from "./bits.ts";
import type { BlockScheme } from "./scheme.ts";

const FLOAT = {
  source: "IEEE 754; ggml row functions",
  blockElements: 1,
  needs: "stream",
  importance: "ignored",
  limits: undefined,
} as const;

const words = new DataView(new ArrayBuffer(4));

/** The values as they are. */
export const f32 = Object.freeze({
  ...FLOAT,
  id: "f32",
  title: "32-bit float",
  blockBytes: 4,
  quantize(row, target) {
    const view = viewOf(target);
    for (let i = 0; i < row.length; i++) view.setFloat32(4 * i, row[i] ?? 0, true);
  },
  dequantize(source, target) {
    const view = viewOf(source);
    for (let i = 0; i < target.length; i++) target[i] = view.getFloat32(4 * i, true);
  },
} satisfies BlockScheme);

/** Nearest float16, ties to even, overflow to infinity. */
export const f16 = Object.freeze({
  ...FLOAT,
  id: "f16",
  title: "16-bit float (IEEE half)",
  blockBytes: 2,
  quantize(row, target) {
    for (let i = 0; i < row.length; i++) writeHalf(target, 2 * i, row[i] ?? 0);
  },
  dequantize(source, target) {
    for (let i = 0; i < target.length; i++) target[i] = readHalf(source, 2 * i);
  },
} satisfies BlockScheme);

/** Nearest bfloat16, ties to even; a NaN keeps its upper half and becomes quiet. */
export const bf16 = Object.freeze({
  ...FLOAT,
  id: "bf16",
  title: "16-bit float (bfloat16)",
  blockBytes: 2,
  quantize(row, target) {
    for (let i = 0; i < row.length; i++) {
      words.setFloat32(0, row[i] ?? 0, true);
      const word = words.getUint32(0, true);
      const isNan = (word & 0x7fffffff) > 0x7f800000;
      const half = isNan ? (word >>> 16) | 64 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
      target[2 * i] = half & 0xff;
      target[2 * i + 1] = half >>> 8;
    }
  },
  dequantize(source, target) {
    for (let i = 0; i < target.length; i++) {
      target[i] = bfloat16ToFloat32((source[2 * i] ?? 0) | ((source[2 * i + 1] ?? 0) << 8));
    }
  },
} satisfies BlockScheme);
