// A compressed-tensors folder as a checkpoint of the weights that it stands for: the parts of a module become its one
// weight, dequantized when it is read. Called when any folder of safetensors is opened.
import assert from "node:assert/strict";
import type { Checkpoint, TensorEntry } from "../checkpoint.ts";
import { parametersOf } from "../universal/conversion.ts";
import { listCompressed, type StoredMatrix } from "./compressed-tensors-read.ts";
import type { OpenedCheckpoint } from "./format.ts";

const CONFIG_FILE = "config.json";

/**
 * The opened folder with its weights as matrices of F32; unchanged when its config says nothing of compressed tensors.
 * `read` is asked for the shapes that headers do not tell.
 * Throws CompressedTensorsUnsupported, CompressedTensorsInvalid.
 */
export async function openCompressed(
  opened: OpenedCheckpoint,
  read: (entry: TensorEntry) => Promise<Uint8Array>,
): Promise<OpenedCheckpoint> {
  const { checkpoint, digest } = opened;
  const content = await listCompressed(checkpoint, read);
  if (content === undefined) return opened;
  const { quantization_config: _, ...config } = checkpoint.config ?? {};
  const tensors = [...content.others, ...content.matrices.map(joinParts)];
  const changed: Checkpoint = { ...checkpoint, tensors, config };
  // What has a digest of its own keeps its files; a folder is converted to what it stands for.
  if (digest !== undefined) return { ...opened, checkpoint: changed };
  const documents = new Map([[CONFIG_FILE, `${JSON.stringify(config, null, 2)}\n`]]);
  const sideFiles = checkpoint.sideFiles.filter(({ name }) => name !== CONFIG_FILE);
  return { ...opened, checkpoint: { ...changed, sideFiles, documents }, conversion: parametersOf(tensors) };
}

/** The weight of a module, whose ranges are those of its parts, one after the other. */
function joinParts({ name, scheme, matrix, parts }: StoredMatrix): TensorEntry {
  const form = scheme.compressed;
  assert.ok(form !== undefined, "a form gives a scheme that has it");
  const { format, bits, type, symmetric, strategy, group, block } = form;
  const sizes = { ...(group === undefined ? {} : { group }), ...(block === undefined ? {} : { block }) };
  const ordered = parts.length > scheme.parts(matrix).length;
  const compressed = { format, bits, type, symmetric, strategy, ...sizes, scales: matrix.dtype, ordered };
  const ranges = parts.flatMap(({ entry }) => entry.ranges);
  return { name, dtype: "F32", shape: [matrix.rows, matrix.columns], ranges, packing: { compressed } };
}
