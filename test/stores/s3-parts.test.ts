// Part numbers and sizes of multipart uploads, and the dialects of servers: no server needed.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { pickDialect, readETag, S3_DIALECTS, writeETag } from "../../stores/s3-dialect.ts";
import { OBJECT_BYTES_MAX, partBytesFor, planParts } from "../../stores/s3-parts.ts";

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;
const TIB = 1024 ** 4;

test("the part size is 8 MiB until 9000 parts are too few, then grows by whole MiB", () => {
  assert.equal(partBytesFor(1), 8 * MIB);
  assert.equal(partBytesFor(9000 * 8 * MIB), 8 * MIB);
  assert.equal(partBytesFor(9000 * 8 * MIB + 1), 9 * MIB);
  assert.equal(partBytesFor(810 * 10 ** 9), 86 * MIB);
});

test("parts cover every region, keep S3's bounds and have one number each", () => {
  const anyRegions = fc.array(fc.integer({ min: 5 * MIB, max: 40 * GIB }), { minLength: 1, maxLength: 1000 });
  const anyLast = fc.integer({ min: 1, max: 40 * GIB });
  fc.assert(
    fc.property(anyRegions, anyLast, (sizes, last) => {
      const regions = [...sizes.slice(1), last].map((bytes) => ({ offset: 0, bytes }));
      const bytes = regions.reduce((sum, region) => sum + region.bytes, 0);
      const plan = planParts(bytes, regions);
      let next = 1;
      for (const [index, parts] of plan.entries()) {
        const region = regions[index] ?? assert.fail();
        assert.equal(parts.firstPart, next);
        next += parts.partCount;
        const lastPart = region.bytes - (parts.partCount - 1) * parts.partBytes;
        assert.ok(lastPart > 0 && lastPart <= parts.partBytes);
        assert.ok(index === plan.length - 1 || lastPart >= 5 * MIB, `${lastPart} bytes`);
        assert.ok(parts.partBytes < 2 * partBytesFor(bytes) && parts.partBytes <= 5 * GIB);
      }
      assert.ok(next - 1 <= 10_000, `${next - 1} parts`);
    }),
    { numRuns: 60, seed: 1 },
  );
});

test("the largest object that is taken needs no part over 5 GiB", () => {
  assert.ok(OBJECT_BYTES_MAX > 20 * TIB);
  assert.ok(2 * partBytesFor(OBJECT_BYTES_MAX) <= 5 * GIB);
});

test("an unknown server gets the careful dialect, AWS its own, and a name decides", () => {
  assert.equal(pickDialect(undefined, undefined), S3_DIALECTS.aws);
  assert.equal(pickDialect("https://s3.eu-west-1.amazonaws.com", ""), S3_DIALECTS.aws);
  assert.equal(pickDialect("https://s3.cn-north-1.amazonaws.com.cn", ""), S3_DIALECTS.aws);
  assert.equal(pickDialect("https://amazonaws.com.evil.example", undefined), S3_DIALECTS.radosgw);
  assert.equal(pickDialect("http://127.0.0.1:8000", undefined), S3_DIALECTS.radosgw);
  assert.equal(pickDialect("http://127.0.0.1:8000", "aws"), S3_DIALECTS.aws);
  assert.throws(() => pickDialect(undefined, "swift"), { code: "StoreUriInvalid", found: "swift" });
});

test("ETags lose their quotes at the border and get them back as the server wants them", () => {
  assert.equal(readETag('"abc-2"'), "abc-2");
  assert.equal(readETag("abc"), "abc");
  assert.equal(readETag(undefined), "");
  assert.equal(writeETag(S3_DIALECTS.aws, "abc"), '"abc"');
  assert.equal(writeETag(S3_DIALECTS.radosgw, "abc"), "abc");
});
