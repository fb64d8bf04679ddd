// Quantization schemes: the reference's bytes for every scheme that it has, and what must hold for all of them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { BLOCK_SCHEME_IDS, BLOCK_SCHEMES, isBlockSchemeId } from "../../../core/schemes/registry.ts";
import { type BlockScheme, rowBytes } from "../../../core/schemes/scheme.ts";
import { runGolden } from "../../../tools/golden.ts";

const GOLDEN = join(import.meta.dirname, "../../golden/quant");

function quantized(scheme: BlockScheme, row: Float32Array, importance?: Float32Array): Uint8Array {
  const target = new Uint8Array(rowBytes(scheme, row.length));
  scheme.quantize(row, target, importance);
  return target;
}

function roundTrip(scheme: BlockScheme, row: Float32Array): Float32Array {
  const back = new Float32Array(row.length);
  scheme.dequantize(quantized(scheme, row), back);
  return back;
}

/** Values in [-1, 1) without a pattern that fits a block. */
function noise(count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => 2 * ((i * 0.754877666) % 1) - 1);
}

suite("schemes", () => {
  test("every golden case has the reference's bytes and values", async () => {
    const report = await runGolden(GOLDEN);
    assert.deepEqual(report.failed, []);
    assert.deepEqual(report.skipped, []);
    assert.equal(report.passed, 30);
  });

  test("every scheme but plain float32 has a golden case, and with importance where it heeds it", () => {
    const cases: { scheme: string; imatrix: boolean }[] = JSON.parse(readFileSync(join(GOLDEN, "cases.json"), "utf8"));
    const keys = new Set(cases.map(({ scheme, imatrix }) => `${scheme.toLowerCase()} ${imatrix}`));
    for (const id of BLOCK_SCHEME_IDS.filter((other) => other !== "f32")) {
      assert.ok(keys.has(`ggml:${id} false`), id);
      if (BLOCK_SCHEMES[id].importance !== "ignored") assert.ok(keys.has(`ggml:${id} true`), id);
    }
  });

  test("a golden byte that differs is reported", async () => {
    const { quantSet } = await import("../../../tools/golden/quant.ts");
    const cases: { id: string; scheme: string; expected: string }[] = JSON.parse(
      readFileSync(join(GOLDEN, "cases.json"), "utf8"),
    );
    const other = cases.map((entry) => (entry.id === "ggml_q4_0" ? { ...entry, scheme: "ggml:iq4_nl" } : entry));
    const found = quantSet.open(GOLDEN, other)?.find(({ id }) => id === "ggml_q4_0");
    assert.equal((await found?.run())?.status, "failed");
  });

  test("the registry names each scheme by its own id, sorted", () => {
    assert.deepEqual([...BLOCK_SCHEME_IDS], BLOCK_SCHEME_IDS.toSorted());
    for (const id of BLOCK_SCHEME_IDS) assert.equal(BLOCK_SCHEMES[id].id, id);
    assert.ok(!isBlockSchemeId("Q4_0") && !isBlockSchemeId("toString"));
  });

  test("float32 keeps every bit", () => {
    const row = Float32Array.of(0, -0, 1e-45, 3.4e38, -1.5, 0.1);
    assert.deepEqual(roundTrip(BLOCK_SCHEMES.f32, row), row);
  });

  test("zeros come back as zeros in every scheme", () => {
    for (const id of BLOCK_SCHEME_IDS) {
      assert.ok(
        roundTrip(BLOCK_SCHEMES[id], new Float32Array(256)).every((value) => value === 0),
        id,
      );
    }
  });

  test("one block does not change the bytes of another, unless importance makes the row matter", () => {
    const row = noise(512);
    for (const id of BLOCK_SCHEME_IDS) {
      const scheme = BLOCK_SCHEMES[id];
      const whole = quantized(scheme, row);
      const half = quantized(scheme, row.subarray(256));
      assert.deepEqual(whole.subarray(whole.length / 2), half, id);
    }
  });

  test("an importance matrix changes the bytes where the scheme heeds it, and nowhere else", () => {
    const row = noise(256);
    const importance = Float32Array.from(row, (_, i) => (i % 7) + 0.01);
    for (const id of BLOCK_SCHEME_IDS) {
      const same =
        Buffer.compare(quantized(BLOCK_SCHEMES[id], row), quantized(BLOCK_SCHEMES[id], row, importance)) === 0;
      assert.equal(same, BLOCK_SCHEMES[id].importance === "ignored", id);
    }
  });

  test("more bits lose less", () => {
    const row = noise(1024);
    const errorOf = (id: "q2_k" | "q3_k" | "q4_k" | "q5_k" | "q6_k" | "q8_0" | "f16") =>
      roundTrip(BLOCK_SCHEMES[id], row).reduce((sum, value, i) => sum + (value - (row[i] ?? 0)) ** 2, 0);
    const errors = (["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0", "f16"] as const).map(errorOf);
    assert.deepEqual(
      errors,
      errors.toSorted((a, b) => b - a),
    );
  });
});
