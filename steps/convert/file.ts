// Converting one file: its header, and then every tensor gathered from ranges of the source, digested on the way.
// Called by the convert unit of a run and by the conversion of a folder.
import { digestBytes, digestTensorFile } from "../../core/artifact/digest.ts";
import type { TensorFile } from "../../core/plan/receipt.ts";
import { gatherBytes } from "../../core/universal/box.ts";
import type { ConvertedFile } from "../../core/universal/convert-plan.ts";
import type { ConvertRequest } from "../../engine/convert-request.ts";
import type { ConvertDeps } from "../step.ts";

/** What was made, bytes that gathering it read, and threads that did it. */
export type ConvertedListing = {
  readonly listing: TensorFile;
  readonly bytesRead: number;
  readonly threads: number;
};

/**
 * Writes the file under `target.key`, whole or not at all, and lists it.
 * Throws UniversalReplicasDisagree, EngineMemoryTooSmall, and what the stores throw.
 */
export async function convertFile(
  source: ConvertRequest["source"],
  { file, header, tensors, fileBytes, gathers }: ConvertedFile,
  target: ConvertRequest["target"],
  { executeConvert, threads, memoryBytes, signal, progress }: Omit<ConvertDeps, "openStore" | "now" | "log">,
): Promise<ConvertedListing> {
  const gathered = tensors.map(({ name, dtype, shape }, index) => {
    return { name, dtype, shape, gather: gathers[index] ?? { rule: "join" as const, copies: [] } };
  });
  const request = { source, target, header, fileBytes, tensors: gathered, threads, memoryBytes };
  const done = await executeConvert(request, { signal, progress });
  const headerDigest = digestBytes(header);
  const listing: TensorFile = {
    name: file,
    bytes: fileBytes,
    digest: digestTensorFile(headerDigest, done.digests),
    headerDigest,
    tensors: tensors.map(({ name, dtype, shape, offset, bytes }, index) => {
      const digest = done.digests[index] ?? "";
      return { name, dtype, shape: [...shape], offset: header.length + offset, bytes, digest };
    }),
  };
  const bytesRead = gathered.reduce((sum, { gather, dtype }) => sum + gatherBytes(gather, dtype), 0);
  return { listing, bytesRead, threads: done.threads };
}
