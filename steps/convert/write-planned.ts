// Writing a planned file: its known bytes, and between them tensors gathered from the source as they are needed. The
// CRC-32 that archives ask for are summed on the way. Called by the conversion into other formats.
import assert from "node:assert/strict";
import { crc32 } from "node:zlib";
import type { PlannedFile, PlannedSection } from "../../core/formats/planned-file.ts";
import { tensorBytes } from "../../core/tensor.ts";
import { type GatherSource, gatherPieces } from "../../engine/gather.ts";
import { writeObject } from "../../stores/objects.ts";
import type { ObjectPlace } from "../../stores/store.ts";

/**
 * Writes the file under `target.key`, whole or not at all. `took` learns of bytes as they are written.
 * Throws UniversalReplicasDisagree, and what the stores throw. Memory: GATHER_PEAK_BYTES and the known bytes.
 */
export async function writePlanned(
  source: GatherSource,
  file: PlannedFile,
  target: ObjectPlace,
  signal: AbortSignal,
  took?: (bytes: number) => void,
): Promise<void> {
  const pieces = async function* (): AsyncGenerator<Uint8Array> {
    for await (const piece of plannedPieces(source, file, signal)) {
      yield piece;
      took?.(piece.length);
    }
  };
  await writeObject(target.store, target.key, pieces(), file.bytes, { signal });
}

async function* plannedPieces(
  source: GatherSource,
  { archives }: PlannedFile,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const sections = archives.flatMap((archive) => archive.sections);
  const tensors = sections.flatMap((section) =>
    section.kind === "tensor" ? [{ name: section.name, ...section.tensor }] : [],
  );
  // One stream over all tensors, so that the next one is read while this one is written.
  const data = takeFrom(gatherPieces(source, tensors, signal));
  const known: Uint8Array[] = [];
  for (const archive of archives) {
    const sums: number[] = [];
    for (const section of archive.sections) {
      if (section.kind !== "tensor") {
        known.push(knownBytes(section, sums));
        continue;
      }
      if (known.length > 0) yield Buffer.concat(known.splice(0));
      let sum = 0;
      for await (const piece of data(tensorBytes(section.tensor.dtype, section.tensor.shape))) {
        sum = crc32(piece, sum);
        yield piece;
      }
      sums.push(sum);
    }
  }
  if (known.length > 0) yield Buffer.concat(known);
}

function knownBytes(section: Exclude<PlannedSection, { kind: "tensor" }>, sums: number[]): Uint8Array {
  if (section.kind === "sums") return section.encode(sums);
  if (section.kind === "entry") sums.push(crc32(section.bytes));
  return section.bytes;
}

/** Takes a number of bytes at a time from a stream whose pieces may be longer; pieces are valid until the next. */
function takeFrom(stream: AsyncGenerator<Uint8Array>): (bytes: number) => AsyncGenerator<Uint8Array> {
  let left: Uint8Array = new Uint8Array(0);
  return async function* (bytes) {
    for (let wanted = bytes; wanted > 0; ) {
      if (left.length === 0) {
        const next = await stream.next();
        assert.ok(next.done !== true, "the stream holds every tensor's bytes");
        left = next.value;
      }
      const piece = left.subarray(0, wanted);
      left = left.subarray(piece.length);
      wanted -= piece.length;
      yield piece;
    }
  };
}
