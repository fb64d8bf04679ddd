// Checking a run before it is published: every unit has its receipt, every output file is what the plan promised, its
// header says so itself, the digests agree, and NaN and infinite values are within what the pipeline allows. Reads
// receipts and headers, never weights: those were digested while they were written.
import { digestBytes, digestTensorFile } from "../core/artifact/digest.ts";
import type { CheckpointFile, ReadRange } from "../core/checkpoint.ts";
import { MergeyardError } from "../core/error.ts";
import { readGgufHeader } from "../core/formats/gguf/gguf.ts";
import { readSafetensorsHeader } from "../core/formats/safetensors/safetensors.ts";
import { mapBounded } from "../core/map-bounded.ts";
import { warnOfLosses } from "../core/plan/loss-warnings.ts";
import type { BlockFile, DerivedFileListing } from "../core/plan/receipt.ts";
import type { DerivedFile } from "../core/plan/schema.ts";
import { sameShape } from "../core/tensor.ts";
import { readRange } from "../stores/objects.ts";
import { type FinishedMerge, mergesOf, readFinishedUnits } from "./runs/receipts.ts";
import { checkInputSchema, checkOutputSchema } from "./schemas.ts";
import { defineStep } from "./step.ts";
import { openRun, type UnitContext } from "./units/context.ts";

/** Throws YardUnitsUnfinished, YardOutputWrong, YardNonFinite. Changes nothing. */
export const checkStep = defineStep({
  name: "check",
  input: checkInputSchema,
  output: checkOutputSchema,
  async run(ref, deps) {
    const context = await openRun(ref, deps);
    const finished = await readFinishedUnits(context);
    const merges = mergesOf(finished);
    await mapBounded(merges, (merge) => checkOutput(context, merge));
    for (const text of warnOfLosses(merges.flatMap(({ receipt }) => receipt.losses))) {
      deps.log({ event: "warning", run: ref.run, text });
    }
    const nonFinite = merges.reduce((sum, { receipt }) => sum + receipt.nonFinite.output, 0);
    const { maxNonFinite } = context.plan.header.checks;
    if (nonFinite > maxNonFinite) {
      const worst = merges.find(({ receipt }) => receipt.nonFinite.output > 0);
      throw new MergeyardError("YardNonFinite", {
        where: { store: ref.yard, file: worst?.outputKey },
        found: `${nonFinite} values in ${merges.filter(({ receipt }) => receipt.nonFinite.output > 0).length} files`,
        expected: `at most ${maxNonFinite}`,
      });
    }
    return {
      ...ref,
      units: finished.length,
      cached: finished.filter(({ receipt }) => receipt.cached).length,
      files: merges.length,
      tensors: merges.reduce((sum, { file }) => sum + file.tensors.length, 0),
      bytes: merges.reduce((sum, { file }) => sum + file.bytes, 0),
      nonFinite,
    };
  },
});

async function checkOutput(context: UnitContext, merge: FinishedMerge): Promise<void> {
  checkReceipt(context, merge);
  await checkDerived(context, merge);
  const { yard, deps } = context;
  const { unit, file, outputKey } = merge;
  const info = await yard.head(outputKey, { signal: deps.signal });
  if (info?.bytes !== unit.fileBytes)
    throw wrong(context, merge, `${info?.bytes ?? "no"} bytes`, `${unit.fileBytes} bytes`);
  const read: ReadRange = (offset, bytes) => readRange(yard, outputKey, offset, bytes, { signal: deps.signal });
  const header = await readSafetensorsHeader(read, { name: outputKey, bytes: info.bytes });
  if (header.headerDigest !== file.headerDigest) throw wrong(context, merge, header.headerDigest, file.headerDigest);
  header.tensors.forEach((found, index) => {
    const expected = file.tensors[index];
    const offset = found.ranges[0]?.offset;
    if (expected?.name !== found.name || expected.dtype !== found.dtype || expected.offset !== offset) {
      throw wrong(context, merge, `tensor ${found.name} ${found.dtype} at ${offset}`, describeTensor(expected));
    }
  });
}

/** Derived files are there at their sizes, with the header of the plan, and what the header says is what was listed. */
async function checkDerived(context: UnitContext, merge: FinishedMerge): Promise<void> {
  const { yard, deps } = context;
  for (const [index, planned] of merge.unit.derived.entries()) {
    const made = merge.receipt.derived[index];
    const bytes = made && (await yard.head(made.key, { signal: deps.signal }))?.bytes;
    if (made === undefined || bytes !== planned.fileBytes) {
      throw wrong(context, merge, `${bytes ?? "no"} bytes of ${planned.file}`, `${planned.fileBytes} bytes`);
    }
    const { key, file } = made;
    const read: ReadRange = (offset, length) => readRange(yard, key, offset, length, { signal: deps.signal });
    const header = Buffer.from(planned.header, "base64");
    const digest = digestBytes(await read(0, header.length));
    if (digest !== file.headerDigest || digestBytes(header) !== digest) {
      throw wrong(context, merge, `header ${digest} of ${file.name}`, digestBytes(header));
    }
    const all = await readStated(planned.format, read, { name: key, bytes });
    // Tensors that no unit makes lie in the header's own bytes.
    const stated = all.filter(({ offset }) => offset === undefined || offset >= header.length);
    const listings = listStated(file);
    stated.forEach((found, at) => {
      const listed = listings[at];
      const agrees = listed?.name === found.name && listed.offset === found.offset;
      if (!agrees || listed.stored !== found.stored || !sameShape(listed.shape, found.shape)) {
        const expected = `${listed?.name} ${listed?.stored}`;
        throw wrong(context, merge, `tensor ${found.name} ${found.stored} at ${found.offset}`, expected);
      }
    });
  }
}

/** A tensor as a header or a listing states it; `stored` is its scheme or dtype. */
type StatedTensor = {
  readonly name: string;
  readonly stored: string | undefined;
  readonly offset: number | undefined;
  readonly shape: readonly number[];
};

/** Tensors of a derived file by its own header. */
async function readStated(
  format: DerivedFile["format"],
  read: ReadRange,
  file: CheckpointFile,
): Promise<readonly StatedTensor[]> {
  if (format === "gguf") {
    const { tensors } = await readGgufHeader(read, file);
    return tensors.map(({ name, type, offset, shape }) => ({ name, stored: type.scheme, offset, shape }));
  }
  const { tensors } = await readSafetensorsHeader(read, file);
  return tensors.map(({ name, dtype, ranges, shape }) => ({ name, stored: dtype, offset: ranges[0]?.offset, shape }));
}

function listStated(file: DerivedFileListing): readonly StatedTensor[] {
  if ("blocks" in file) return listBlocks(file.blocks);
  return file.tensors.map(({ dtype, ...tensor }) => ({ ...tensor, stored: dtype }));
}

/** Blocks as the file's header has them: the experts of a stack, `NAME[0]` and so on, are one tensor. */
function listBlocks(blocks: BlockFile["blocks"]): readonly StatedTensor[] {
  const stacks = Map.groupBy(blocks, ({ name }) => name.replace(/\[\d+\]$/, ""));
  return [...stacks].flatMap(([name, [first, ...others]]) => {
    if (first === undefined) return [];
    const { scheme: stored, offset, shape } = first;
    const isStack = first.name !== name;
    return [{ name, stored, offset, shape: isStack ? [1 + others.length, ...shape] : shape }];
  });
}

/** A receipt against the plan: same tensors in the same places, and a file digest that is made of theirs. */
function checkReceipt(context: UnitContext, merge: FinishedMerge): void {
  const { unit, file } = merge;
  const digest = digestTensorFile(
    file.headerDigest,
    file.tensors.map((tensor) => tensor.digest),
  );
  if (digest !== file.digest) throw wrong(context, merge, digest, file.digest);
  if (file.tensors.length !== unit.tensors.length) {
    throw wrong(context, merge, `${file.tensors.length} tensors`, `${unit.tensors.length} tensors`);
  }
  const headerBytes = unit.fileBytes - unit.tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
  unit.tensors.forEach((planned, index) => {
    const made = file.tensors[index];
    const agrees =
      made !== undefined &&
      made.name === planned.name &&
      made.dtype === planned.dtype &&
      sameShape(made.shape, planned.shape) &&
      made.bytes === planned.bytes &&
      made.offset === headerBytes + planned.offset;
    if (!agrees) throw wrong(context, merge, describeTensor(made), describeTensor(planned));
  });
}

function describeTensor(tensor: { name: string; dtype: string; shape: readonly number[] } | undefined): string {
  return tensor === undefined ? "no tensor" : `tensor ${tensor.name} ${tensor.dtype} [${tensor.shape}]`;
}

function wrong(context: UnitContext, merge: FinishedMerge, found: string, expected: string): MergeyardError {
  const where = { store: context.yard.uri, file: merge.outputKey, unit: merge.unit.index };
  return new MergeyardError("YardOutputWrong", { where, found, expected });
}
