import assert from "node:assert/strict";
import test from "node:test";
import fc from "fast-check";
import { evaluateSetting, filterMatches, settingSchema } from "../../../core/recipe/setting.ts";

const evaluate = (written: unknown, tensor: string, position: number) =>
  evaluateSetting(settingSchema.parse(written), tensor, position);

test("settings evaluate as the reference defines, by form, tensor and layer position", () => {
  const filtered = [
    { filter: "self_attn", value: [0, 1] },
    { filter: "mlp.up", value: 0.25 },
    { filter: "*", value: 9 },
  ];
  const cases: readonly (readonly [unknown, string, number, number | boolean | string | undefined])[] = [
    [0.5, "x", 0.3, 0.5],
    [true, "x", 0.3, true],
    ["inverse_density", "x", 0.3, "inverse_density"],
    ["0.5", "x", 0.3, 0.5],
    [" -1e-3 ", "x", 0.3, -0.001],
    [[1, 0.5, 0], "x", 0, 1],
    [[1, 0.5, 0], "x", 1, 0],
    [[1, 0.5, 0], "x", 0.5, 0.5],
    [[0, 0.5, 0.3, 0.7, 1], "x", 0.125, 0.25],
    [[4], "x", 0.7, 4],
    [["0.5", true], "x", 1, 1],
    [filtered, "model.layers.1.self_attn.q_proj.weight", 1, 1],
    [filtered, "model.layers.1.mlp.up_proj.weight", 1, 0.25],
    [filtered, "lm_head.weight", 0, 9],
    [filtered.slice(0, 2), "lm_head.weight", 0, undefined],
    [[{ value: 3 }, { filter: "x", value: 4 }], "x", 0, 3],
    [[{ filter: null, value: 3 }], "x", 0, 3],
    [[{ filter: "SELF", value: 3 }], "self", 0, undefined],
  ];
  for (const [written, tensor, position, value] of cases) {
    assert.equal(evaluate(written, tensor, position), value, JSON.stringify([written, tensor, position]));
  }
});

test("a word has at most 64 characters", () => {
  assert.equal(evaluate("w".repeat(64), "x", 0), "w".repeat(64));
  assert.equal(settingSchema.safeParse("w".repeat(65)).success, false);
});

test("a filter is a plain part of the name: no pattern, and case matters", () => {
  assert.equal(filterMatches("q.proj", "self_attn.q_proj"), false);
  assert.equal(filterMatches("", "anything"), true);
});

test("a gradient starts at its first point, ends at its last and never leaves their range", () => {
  const points = fc.array(fc.double({ min: -10, max: 10, noNaN: true }), { minLength: 1, maxLength: 9 });
  fc.assert(
    fc.property(points, fc.double({ min: 0, max: 1, noNaN: true }), (gradient, position) => {
      assert.equal(Number(evaluate(gradient, "x", 0)) + 0, (gradient[0] ?? 0) + 0);
      assert.equal(Number(evaluate(gradient, "x", 1)) + 0, (gradient.at(-1) ?? 0) + 0);
      const value = Number(evaluate(gradient, "x", position));
      assert.ok(value >= Math.min(...gradient) - 1e-9 && value <= Math.max(...gradient) + 1e-9);
    }),
  );
});

test("what is no number, word, gradient or filtered list is refused with its place in the setting", () => {
  const cases: readonly (readonly [unknown, readonly (string | number)[]])[] = [
    ["two words", []],
    ["High", []],
    [null, []],
    [Number.NaN, []],
    [Number.POSITIVE_INFINITY, []],
    [[], []],
    [[1, "high"], [1]],
    [[[1]], [0]],
    [{ filter: "x", value: 1 }, []],
    [[{ filter: "x", value: 1 }, 2], [1]],
    [[{ filter: 3, value: 1 }], [0, "filter"]],
    [[{ filter: "x" }], [0]],
    [[{ filter: "x", value: [{ filter: "y", value: 1 }] }], [0, "value", 0]],
    [[{ filter: "x", value: 1, vlaue: 2 }], [0]],
    [Array.from({ length: 1001 }, () => 1), []],
  ];
  for (const [written, path] of cases) {
    const result = settingSchema.safeParse(written);
    assert.equal(result.success, false, JSON.stringify(written)?.slice(0, 80));
    assert.deepEqual(result.error?.issues[0]?.path, path, JSON.stringify(written)?.slice(0, 80));
  }
});
