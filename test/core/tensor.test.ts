// Dtypes, shapes and sizes: the table against the reference's, and the arithmetic at its edges.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import {
  DTYPE_BITS,
  DTYPES,
  dtypeRank,
  elementBytes,
  elementCount,
  isDtype,
  sameShape,
  tensorBytes,
} from "../../core/tensor.ts";

suite("dtypes", () => {
  test("are the reference's, in its order", () => {
    const reference =
      "BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 I32 U32 F32 " +
      "C64 F64 I64 U64";
    assert.deepEqual(DTYPES, reference.split(" "));
    assert.equal(dtypeRank("BOOL"), 0);
    assert.equal(dtypeRank("U64"), DTYPES.length - 1);
    assert.ok(dtypeRank("BF16") > dtypeRank("F16"));
  });

  test("are recognised by their safetensors spelling only", () => {
    for (const dtype of DTYPES) assert.ok(isDtype(dtype));
    for (const text of ["f32", "bfloat16", "F128", "", "toString", "__proto__", "constructor"]) {
      assert.equal(isDtype(text), false, text);
    }
  });

  test("have their width in bits", () => {
    assert.deepEqual([DTYPE_BITS.F4, DTYPE_BITS.F6_E2M3, DTYPE_BITS.BOOL, DTYPE_BITS.C64], [4, 6, 8, 64]);
  });
});

suite("sizes", () => {
  test("a shape without axes is one element and an axis of 0 is none", () => {
    assert.equal(elementCount([]), 1);
    assert.equal(elementCount([3, 0, 5]), 0);
    assert.equal(elementCount([2, 3, 4]), 24);
  });

  test("bytes follow from the width, packed dtypes included", () => {
    assert.equal(tensorBytes("BF16", [16384, 53248]), 16384 * 53248 * 2);
    assert.equal(tensorBytes("F4", [2, 4]), 4);
    assert.equal(tensorBytes("F6_E3M2", [4]), 3);
    assert.equal(tensorBytes("I64", []), 8);
    assert.equal(elementBytes("F16", 0), 0);
  });

  test("sizes beyond 32 bits do not wrap", () => {
    assert.equal(tensorBytes("F32", [2 ** 17, 2 ** 17]), 2 ** 36);
  });

  test("shapes are the same when all axes are", () => {
    assert.ok(sameShape([], []));
    assert.ok(sameShape([2, 3], [2, 3]));
    assert.equal(sameShape([2, 3], [3, 2]), false);
    assert.equal(sameShape([2], [2, 1]), false);
    assert.equal(sameShape([1], []), false);
  });
});
