// Every file of the safetensors golden set, made by an independent writer and run through the reference (a Rust crate):
// what loads must load with the stated tensors and bytes, what is refused must be refused with our code for its reason.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { suite, test } from "node:test";
import * as z from "zod";
import { type ErrorCode, MergeyardError } from "../../../core/error.ts";
import { safetensors } from "../../../core/formats/safetensors/folder.ts";
import { parseSafetensorsHeader, readSafetensorsHeader } from "../../../core/formats/safetensors/safetensors.ts";
import { diskFolder } from "./folder.ts";

const ROOT = join(import.meta.dirname, "../../golden/safetensors");

const casesSchema = z.object({
  cases: z.array(
    z.object({
      file: z.string(),
      expect: z.enum(["load", "refuse", "either"]),
      metadata: z.record(z.string(), z.string()).nullish(),
      tensors: z.unknown().optional(),
      reference_error: z.string().optional(),
    }),
  ),
});
const tensorSchema = z.object({ dtype: z.string(), shape: z.array(z.number()), hex: z.string(), bytes: z.number() });

/** Our code for every refused case, beside the reference's error. */
const CODES: Readonly<Record<string, ErrorCode>> = {
  "invalid/header_len_huge.safetensors": "SafetensorsHeaderTooLarge",
  "invalid/header_len_max.safetensors": "SafetensorsHeaderTooLarge",
  "invalid/header_len_100mb_plus_1.safetensors": "SafetensorsHeaderTooLarge",
  "invalid/header_len_100mb.safetensors": "SafetensorsHeaderPastEnd",
  "invalid/header_len_past_end.safetensors": "SafetensorsHeaderPastEnd",
  "invalid/header_len_zero.safetensors": "SafetensorsHeaderNotObject",
  "invalid/header_len_short.safetensors": "SafetensorsHeaderNotJson",
  "invalid/seven_bytes.safetensors": "SafetensorsHeaderTooSmall",
  "invalid/empty.safetensors": "SafetensorsHeaderTooSmall",
  "invalid/not_utf8.safetensors": "SafetensorsHeaderNotUtf8",
  "invalid/utf8_bom.safetensors": "SafetensorsHeaderNotObject",
  "invalid/json_array.safetensors": "SafetensorsHeaderNotObject",
  "invalid/json_trailing_comma.safetensors": "SafetensorsHeaderNotJson",
  "invalid/json_trailing_garbage.safetensors": "SafetensorsHeaderNotJson",
  "invalid/json_nul_padding.safetensors": "SafetensorsHeaderNotJson",
  "invalid/json_deep.safetensors": "SafetensorsFieldInvalid",
  "invalid/dtype_unknown.safetensors": "SafetensorsDtypeUnknown",
  "invalid/dtype_lowercase.safetensors": "SafetensorsDtypeUnknown",
  "invalid/dtype_missing.safetensors": "SafetensorsFieldMissing",
  "invalid/offsets_missing.safetensors": "SafetensorsFieldMissing",
  "invalid/offsets_three.safetensors": "SafetensorsFieldInvalid",
  "invalid/offsets_string.safetensors": "SafetensorsIntegerInvalid",
  "invalid/offsets_float.safetensors": "SafetensorsIntegerInvalid",
  "invalid/shape_float.safetensors": "SafetensorsIntegerInvalid",
  "invalid/shape_negative.safetensors": "SafetensorsIntegerInvalid",
  "invalid/shape_not_list.safetensors": "SafetensorsFieldInvalid",
  "invalid/metadata_not_strings.safetensors": "SafetensorsFieldInvalid",
  "invalid/metadata_nested.safetensors": "SafetensorsFieldInvalid",
  "invalid/overlap.safetensors": "SafetensorsOffsetsInvalid",
  "invalid/same_range.safetensors": "SafetensorsOffsetsInvalid",
  "invalid/gap.safetensors": "SafetensorsOffsetsInvalid",
  "invalid/gap_at_start.safetensors": "SafetensorsOffsetsInvalid",
  "invalid/end_before_start.safetensors": "SafetensorsOffsetsInvalid",
  "invalid/offset_max.safetensors": "SafetensorsOffsetsInvalid",
  "invalid/offset_2_53_plus_1.safetensors": "SafetensorsSizeMismatch",
  "invalid/offset_over_u64.safetensors": "SafetensorsIntegerInvalid",
  "invalid/shape_overflow.safetensors": "SafetensorsSizeOverflow",
  "invalid/shape_overflow_to_fit.safetensors": "SafetensorsSizeOverflow",
  "invalid/bits_overflow.safetensors": "SafetensorsSizeOverflow",
  "invalid/size_mismatch_small.safetensors": "SafetensorsSizeMismatch",
  "invalid/size_mismatch_big.safetensors": "SafetensorsSizeMismatch",
  "invalid/empty_with_bytes.safetensors": "SafetensorsSizeMismatch",
  "invalid/f4_odd.safetensors": "SafetensorsSizePartialByte",
  "invalid/f6_partial.safetensors": "SafetensorsSizePartialByte",
  "invalid/data_truncated.safetensors": "SafetensorsDataTruncated",
  "invalid/data_absent.safetensors": "SafetensorsDataTruncated",
  "invalid/data_trailing.safetensors": "SafetensorsDataTrailing",
  "invalid/duplicate_key.safetensors": "SafetensorsNameRepeated",
  "invalid/duplicate_key_ranges.safetensors": "SafetensorsNameRepeated",
  "invalid/duplicate_field.safetensors": "SafetensorsNameRepeated",
  "invalid/leading_space.safetensors": "SafetensorsHeaderNotObject",
  "invalid/html.safetensors": "SafetensorsForeignContent",
  "invalid/lfs_pointer.safetensors": "SafetensorsForeignContent",
  "invalid/index_missing_shard": "CheckpointShardMissing",
  "invalid/index_missing_tensor": "CheckpointTensorMissing",
  "invalid/index_extra_tensor": "CheckpointTensorNotIndexed",
  "invalid/index_duplicate_tensor": "CheckpointTensorRepeated",
  "invalid/index_path_traversal": "CheckpointIndexFileNameInvalid",
  "invalid/index_absolute_path": "CheckpointIndexFileNameInvalid",
  "invalid/index_not_json": "CheckpointIndexNotJson",
  "invalid/index_no_map": "CheckpointIndexInvalid",
};

const { cases } = casesSchema.parse(JSON.parse(readFileSync(join(ROOT, "cases.json"), "utf8")));

/** Tensors by name with their bytes, read by the ranges of the entries. */
async function openCase(file: string) {
  const single = file.endsWith(".safetensors");
  const folder = diskFolder(single ? join(ROOT, dirname(file)) : join(ROOT, file));
  const name = file.slice(file.lastIndexOf("/") + 1);
  const info = folder.files.find((entry) => entry.name === name) ?? { name, bytes: 0 };
  const opening = single ? safetensors.file.open({ ...folder, files: [info] }) : safetensors.open(folder);
  const { checkpoint, warnings } = await opening;
  const tensors: Record<string, { dtype: string; shape: readonly number[]; hex: string; bytes: number }> = {};
  for (const { name, dtype, shape, ranges } of checkpoint.tensors) {
    const [range] = ranges;
    assert.ok(range !== undefined && ranges.length === 1);
    const content = await folder.read(range.file, range.offset, range.bytes);
    const hex = Buffer.from(content).toString("hex");
    Object.defineProperty(tensors, name, { value: { dtype, shape, hex, bytes: range.bytes }, enumerable: true });
  }
  return { tensors, metadata: Object.fromEntries(checkpoint.metadata), warnings };
}

suite("the safetensors golden set", () => {
  for (const { file, expect, metadata, tensors } of cases) {
    if (expect === "load") {
      test(`${file} loads with the stated tensors and bytes`, async () => {
        const opened = await openCase(file);
        const expected = Object.entries(tensors ?? {}).map(([name, tensor]) => {
          const { dtype, shape, hex, bytes } = tensorSchema.parse(tensor);
          return [name, { dtype, shape, hex, bytes }] as const;
        });
        const names = Object.keys(opened.tensors).sort();
        assert.deepEqual(names, expected.map(([name]) => name).sort());
        for (const [name, tensor] of expected) assert.deepEqual(opened.tensors[name], tensor);
        if (file.endsWith(".safetensors")) assert.deepEqual(opened.metadata, metadata ?? {});
        assert.deepEqual(opened.warnings, []);
      });
    } else if (expect === "refuse") {
      test(`${file} is refused as ${CODES[file]}`, async () => {
        await assert.rejects(openCase(file), (error) => {
          assert.ok(error instanceof MergeyardError, String(error));
          assert.equal(error.code, CODES[file]);
          assert.ok(error.where.file !== undefined, "an error names its file");
          return true;
        });
      });
    }
  }

  test("a wrong total_size is a warning", async () => {
    const { warnings } = await openCase("invalid/index_total_size_wrong");
    assert.deepEqual(warnings, [
      {
        code: "IndexTotalSizeWrong",
        where: { file: "model.safetensors.index.json", field: "metadata.total_size" },
        found: "999",
        expected: "24",
      },
    ]);
  });

  test("a refused header is never read beyond the file", async () => {
    const file = { name: "header_len_100mb.safetensors", bytes: 96 };
    const content = readFileSync(join(ROOT, "invalid", file.name));
    const reads: number[] = [];
    const read = async (offset: number, bytes: number) => {
      reads.push(offset + bytes);
      return content.subarray(offset, offset + bytes);
    };
    await assert.rejects(readSafetensorsHeader(read, file), { code: "SafetensorsHeaderPastEnd" });
    assert.deepEqual(reads, [96]);
    assert.throws(() => parseSafetensorsHeader(content, file), { code: "SafetensorsHeaderPastEnd" });
  });
});
