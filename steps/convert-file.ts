// Converting one file: its header, and then every tensor gathered from ranges of the source, digested on the way.
// Called by the convert unit of a run and by the conversion of a folder.
import { digestBytes, digestTensorFile } from "../core/artifact/digest.ts";
import type { TensorFile } from "../core/plan/receipt.ts";
import { type ConvertedFile, gatherBytes } from "../core/universal/convert-plan.ts";
import { type GatherSource, gatherPieces } from "../engine/gather.ts";
import { writeObject } from "../stores/objects.ts";
import type { ObjectStore } from "../stores/store.ts";
import type { StepProgress } from "./step.ts";
import { createPartHasher } from "./stream.ts";

/**
 * Writes the file under `target.key`, whole or not at all, and lists it.
 * Throws UniversalReplicasDisagree, and what the stores throw. Memory: GATHER_PEAK_BYTES and the header.
 */
export async function convertFile(
  source: GatherSource,
  { file, header, tensors, fileBytes, gathers }: ConvertedFile,
  target: { readonly store: ObjectStore; readonly key: string },
  signal: AbortSignal,
  progress?: (done: StepProgress) => void,
): Promise<{ readonly listing: TensorFile; readonly bytesRead: number }> {
  const hasher = createPartHasher(tensors.map(({ bytes }) => bytes));
  const gathered = tensors.map(({ name, dtype, shape }, index) => {
    return { name, dtype, shape, gather: gathers[index] ?? { rule: "join" as const, copies: [] } };
  });
  const bytesRead = gathered.reduce((sum, { gather, dtype }) => sum + gatherBytes(gather, dtype), 0);
  let bytesWritten = 0;
  const pieces = async function* (): AsyncGenerator<Uint8Array> {
    yield header;
    for await (const piece of gatherPieces(source, gathered, signal)) {
      hasher.update(piece);
      yield piece;
      bytesWritten += piece.length;
      progress?.({ bytesRead: Math.round((bytesWritten / (fileBytes - header.length)) * bytesRead), bytesWritten });
    }
  };
  await writeObject(target.store, target.key, pieces(), fileBytes, { signal });
  const digests = hasher.digests();
  const headerDigest = digestBytes(header);
  const listing: TensorFile = {
    name: file,
    bytes: fileBytes,
    digest: digestTensorFile(headerDigest, digests),
    headerDigest,
    tensors: tensors.map(({ name, dtype, shape, offset, bytes }, index) => {
      return { name, dtype, shape: [...shape], offset: header.length + offset, bytes, digest: digests[index] ?? "" };
    }),
  };
  return { listing, bytesRead };
}
