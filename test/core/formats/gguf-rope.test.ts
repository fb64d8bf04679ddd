// Rotary scaling in GGUF files: Llama 3's factors against torch's, the way back, and what is refused.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { findLlama3, planScaling } from "../../../core/formats/gguf/rope.ts";

const CASES: readonly { theta: number; headSize: number; factor: number; values: number[] }[] = JSON.parse(
  readFileSync(join(import.meta.dirname, "../../golden/rope/llama3.json"), "utf8"),
);
const OTHER = { context: 8192, original: undefined, takesLong: false };
const LLAMA3 = {
  rope_type: "llama3",
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 8192,
};

test("the factors of Llama 3 are those of the reference, and lead back to the config", () => {
  for (const { theta, headSize, factor, values } of CASES) {
    const { entries, constants } = planScaling({ ...OTHER, scaling: { ...LLAMA3, factor }, theta, headSize });
    assert.deepEqual(entries, []);
    const own = constants[0]?.values ?? new Float32Array();
    assert.deepEqual([constants[0]?.name, own.length], ["rope_freqs.weight", headSize / 2]);
    // A few units in the last place: torch's power is another library's.
    for (const [i, value] of own.entries()) assert.ok(Math.abs(value / (values[i] ?? 0) - 1) < 1e-6, `${i}: ${value}`);
    assert.deepEqual(findLlama3(Float32Array.from(values), theta), { ...LLAMA3, factor });
    assert.equal(findLlama3(Float32Array.from(values), 10000), undefined);
    assert.equal(
      findLlama3(
        own.map((value) => value * 1.01),
        theta,
      ),
      undefined,
    );
  }
  assert.equal(findLlama3(new Float32Array(8).fill(1), 10000), undefined);
});

test("no scaling is nothing, and kinds and settings without words are refused", () => {
  const plan = (scaling: Record<string, unknown> | undefined) =>
    planScaling({ ...OTHER, scaling, theta: 10000, headSize: 64 });
  for (const scaling of [undefined, { rope_type: "default", rope_theta: 5 }]) {
    assert.deepEqual(plan(scaling), { entries: [], constants: [] });
  }
  assert.deepEqual(
    plan({ type: "linear", factor: 2 }).entries.map(([key]) => key),
    ["rope.scaling.type", "rope.scaling.factor"],
  );
  const full = { ...LLAMA3, factor: 8 };
  for (const wrong of [
    { rope_type: "longrope" },
    { rope_type: "toString" },
    { rope_type: "linear" },
    { ...full, factor: undefined },
    { ...full, original_max_position_embeddings: 0 },
    { ...full, low_freq_factor: 4 },
  ]) {
    assert.throws(() => plan(wrong), { code: "QuantizeModelUnsupported" }, JSON.stringify(wrong));
  }
});

test("factors for short and for long texts are tensors, of families whose readers know them", () => {
  const scaling = { type: "longrope", long_factor: [1, 2.5], short_factor: [1, 1.25] };
  const config = { scaling, theta: 10000, headSize: 4, context: 131072, original: 4096, takesLong: true };
  const { entries, constants } = planScaling(config);
  assert.deepEqual(
    constants.map(({ name, values }) => [name, [...values]]),
    [
      ["rope_factors_long.weight", [1, 2.5]],
      ["rope_factors_short.weight", [1, 1.25]],
    ],
  );
  // The root of 1 + ln 32 / ln 4096 = 1 + 5 / 12.
  assert.deepEqual(entries, [["rope.scaling.attn_factor", { kind: "f32", value: Math.fround(Math.sqrt(17 / 12)) }]]);
  assert.deepEqual(planScaling({ ...config, context: 4096 }).entries[0]?.[1], { kind: "f32", value: 1 });
  for (const wrong of [
    { ...config, takesLong: false },
    { ...config, original: undefined },
    { ...config, headSize: 6 },
    { ...config, scaling: { ...scaling, attention_factor: 1.5 } },
    { ...config, scaling: { ...scaling, factor: 16 } },
    { ...config, scaling: { ...scaling, short_factor: [1, 0] } },
  ]) {
    assert.throws(() => planScaling(wrong), { code: "QuantizeModelUnsupported" });
  }
});
