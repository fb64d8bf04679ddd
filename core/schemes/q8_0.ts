// Q8_0: blocks of 32 signed bytes and one scale.
import { readHalf, roundHalfAway, writeHalf } from "./bits.ts";
import type { BlockScheme } from "./scheme.ts";
import { signedExtreme } from "./search.ts";

const f = Math.fround;

/** d = max|x| / 127, q = round(x / d) with halves away from zero; the codes use d before it is rounded to F16. */
export const q8_0 = Object.freeze({
  id: "q8_0",
  title: "8 bits, scale for 32 (Q8_0)",
  source: "ggml Q8_0",
  blockElements: 32,
  blockBytes: 34,
  needs: "stream",
  importance: "ignored",
  quantize(row, target) {
    for (let at = 0, to = 0; at < row.length; at += 32, to += 34) {
      const d = f(Math.abs(signedExtreme(row, at, 32)) / 127);
      const inverse = d === 0 ? 0 : f(1 / d);
      writeHalf(target, to, d);
      for (let i = 0; i < 32; i++) target[to + 2 + i] = roundHalfAway(f((row[at + i] ?? 0) * inverse));
    }
  },
  dequantize(source, target) {
    for (let at = 0, from = 0; at < target.length; at += 32, from += 34) {
      const d = readHalf(source, from);
      for (let i = 0; i < 32; i++) target[at + i] = (((source[from + 2 + i] ?? 0) << 24) >> 24) * d;
    }
  },
  limits: undefined,
} satisfies BlockScheme);
