// Union: slices of tensor-parallel ranks become one tensor by the first pattern that matches.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { flattenBoxes } from "../../../core/universal/box.ts";
import { parseCheckpointInfo } from "../../../core/universal/checkpoint-info.ts";
import { createUnionRules, type Slice, type UnitedTensor } from "../../../core/universal/union.ts";

/** Slices of one byte an element: rank r's element e is the byte 100 r + e of the file "r". */
const slices = (...shapes: number[][]): Slice[] =>
  shapes.map((shape, rank) => ({
    shape,
    ranges: [{ file: String(rank), offset: 0, bytes: shape.reduce((product, length) => product * length, 1) }],
  }));

/** `rank:element` of every element of the joined tensor. */
function layoutOf({ gather, shape }: UnitedTensor): readonly string[] {
  const ranges = flattenBoxes(gather.copies[0] ?? [], shape, 1, 1000) ?? [];
  return ranges.flatMap(({ file, offset, bytes }) =>
    Array.from({ length: bytes }, (_, index) => `${file}:${offset + index}`),
  );
}

const unite = (info: object, shapes: number[][], name = "w") =>
  createUnionRules(parseCheckpointInfo(info, "x")).unite(name, slices(...shapes));

suite("the union of slices", () => {
  test("joins on axis 0 what no pattern names, and on axis 1 what is cut by rows", () => {
    const plain = unite({}, [
      [1, 2],
      [1, 2],
    ]);
    assert.deepEqual([plain.shape, plain.pattern], [[2, 2], { kind: "fragment", dim: 0 }]);
    assert.deepEqual(layoutOf(plain), ["0:0", "0:1", "1:0", "1:1"]);
    const row = unite({ parameter_with_row_parallelism_patterns: ["w"] }, [
      [2, 1],
      [2, 1],
    ]);
    assert.deepEqual([row.shape, row.pattern], [[2, 2], { kind: "fragment", dim: 1 }]);
    assert.deepEqual(layoutOf(row), ["0:0", "1:0", "0:1", "1:1"]);
  });

  test("tells a name that is said to be joined on axis 0 from one that is only taken so", () => {
    const info = { parameter_with_column_parallelism_patterns: ["said.*"] };
    const { isColumn } = createUnionRules(parseCheckpointInfo(info, "x"));
    assert.deepEqual([isColumn("said.w"), isColumn("other.w")], [true, false]);
  });

  test("keeps the widths of ranks that hold different lengths", () => {
    const uneven = unite({}, [
      [2, 1],
      [1, 1],
    ]);
    assert.deepEqual(uneven.pattern, { kind: "fragment", dim: 0, parts: [{ length: 3, widths: [2, 1] }] });
  });

  test("compares replicas and averages what ranks update apart", () => {
    assert.equal(unite({ tp_replicated_parameter_patterns: ["w"] }, [[2], [2]]).gather.rule, "equal");
    const mean = unite({ parameter_to_average_patterns: ["w"] }, [[2], [2]]);
    assert.deepEqual([mean.gather.rule, mean.gather.copies.length, mean.pattern], ["mean", 2, { kind: "averaged" }]);
  });

  test("joins halves of two sub-parameters, and sub-parameters of any widths", () => {
    const two = unite({ parameter_with_2_sub_params_cat_dim_0: ["w"] }, [[2], [2]]);
    assert.deepEqual(layoutOf(two), ["0:0", "1:0", "0:1", "1:1"]);
    assert.deepEqual(two.pattern, { kind: "fragment", dim: 0, parts: [{ length: 2 }, { length: 2 }] });
    const sub = { patterns: ["w"], shape: [[4, 2], 1], partition_dim: 0 };
    const fused = unite({ parameter_with_sub_params: [sub] }, [
      [3, 1],
      [3, 1],
    ]);
    assert.deepEqual(layoutOf(fused), ["0:0", "0:1", "1:0", "1:1", "0:2", "1:2"]);
    const counted = unite({ parameter_with_sub_params: [{ ...sub, shape: [3, -1] }] }, [
      [3, 1],
      [3, 1],
    ]);
    assert.deepEqual(layoutOf(counted), ["0:0", "1:0", "0:1", "1:1", "0:2", "1:2"]);
    const widths = {
      w: [
        [1, 3],
        [1, 1],
      ],
    };
    const heads = unite({ parameter_with_sub_params: [sub], sub_param_shard_widths: widths }, [
      [2, 1],
      [4, 1],
    ]);
    assert.deepEqual(layoutOf(heads), ["0:0", "1:0", "1:1", "1:2", "0:1", "1:3"]);
    assert.deepEqual(heads.pattern, {
      kind: "fragment",
      dim: 0,
      parts: [{ length: 4, widths: [1, 3] }, { length: 2 }],
    });
  });

  test("cuts the rows that pad the vocabulary", () => {
    const info = { vocabulary_parameter_patterns: ["w"], original_vocab_size: 3 };
    const cut = unite(info, [
      [2, 1],
      [2, 1],
    ]);
    assert.deepEqual([cut.shape, cut.paddedRows], [[3, 1], 4]);
    assert.deepEqual(layoutOf(cut), ["0:0", "0:1", "1:0"]);
    // Without padding it is a vocabulary still, which other ranks pad.
    assert.equal(unite(info, [[3, 1]]).paddedRows, 3);
    assert.throws(() => unite({ ...info, original_vocab_size: 9 }, [[2, 1]]), { code: "UniversalShapeMismatch" });
    assert.throws(() => unite({ vocabulary_parameter_patterns: ["w"] }, [[2, 1]]), { code: "UniversalShapeMismatch" });
  });

  test("refuses slices that do not fit their pattern", () => {
    const cases: [object, number[][]][] = [
      [
        {},
        [
          [1, 2],
          [1, 3],
        ],
      ],
      [{ parameter_with_row_parallelism_patterns: ["w"] }, [[2], [2]]],
      [{ tp_replicated_parameter_patterns: ["w"] }, [[2], [3]]],
      [{ parameter_with_2_sub_params_cat_dim_0: ["w"] }, [[3], [3]]],
      [{ parameter_with_sub_params: [{ patterns: ["w"], shape: [[3, 1]], partition_dim: 0 }] }, [[2], [2]]],
      [{ parameter_with_sub_params: [{ patterns: ["w"], shape: [[4, 4]], partition_dim: 0 }] }, [[2], [2]]],
      [{ parameter_with_sub_params: [{ patterns: ["w"], shape: [[4]], partition_dim: 1 }] }, [[2], [2]]],
    ];
    for (const [info, shapes] of cases) {
      assert.throws(() => unite(info, shapes), { code: "UniversalShapeMismatch" }, JSON.stringify(info));
    }
  });

  test("refuses two patterns of one list for a name, and patterns that name nothing", () => {
    const two = { tp_replicated_parameter_patterns: ["w", "."] };
    assert.throws(() => unite(two, [[1], [1]]), { code: "UniversalPatternAmbiguous" });
    const rules = createUnionRules({ tp_replicated_parameter_patterns: ["w", "no such"] });
    rules.unite("w", slices([1], [1]));
    assert.throws(() => rules.checkUsed("x"), {
      code: "UniversalPatternUnused",
      where: { file: "x", field: '"no such"' },
    });
    assert.throws(() => createUnionRules({ parameter_to_average_patterns: ["("] }), {
      code: "UniversalPatternInvalid",
    });
  });

  test("refuses info of another form, naming the field", () => {
    assert.throws(() => parseCheckpointInfo({ original_vocab_size: "50" }, "x"), {
      code: "UniversalPatternsInvalid",
      where: { file: "x", field: "universal_checkpoint_info.original_vocab_size" },
    });
  });
});
