// A folder of quantized weights as a checkpoint of the weights that it stands for: the parts of a module become its one
// weight, dequantized when it is read. Called when any folder of safetensors is opened.
import * as z from "zod";
import type { Checkpoint, TensorEntry } from "../../checkpoint.ts";
import { stringifyPython } from "../../json.ts";
import { parametersOf } from "../../universal/conversion.ts";
import type { OpenedCheckpoint } from "../format.ts";
import { listCompressed } from "./compressed-tensors-read.ts";
import { listAwq, listBitsandbytes, listGptq, listHqq } from "./modules.ts";
import type { ListQuantized, ReadTensor, StoredMatrix } from "./stored-matrix.ts";

const CONFIG_FILE = "config.json";

/** By `quant_method` of the config; folders of other methods stay as their tensors are. */
const CONTAINERS: ReadonlyMap<string, ListQuantized> = new Map([
  ["awq", listAwq],
  ["bitsandbytes", listBitsandbytes],
  ["compressed-tensors", listCompressed],
  ["gptq", listGptq],
  ["hqq", listHqq],
]);

const methodSchema = z.looseObject({ quant_method: z.string() });

/**
 * The opened folder with its weights as matrices of F32; unchanged when its config speaks of no container known here.
 * `read` is asked for what headers do not tell. Throws QuantizedFolderUnsupported, QuantizedFolderInvalid.
 */
export async function openQuantized(opened: OpenedCheckpoint, read: ReadTensor): Promise<OpenedCheckpoint> {
  const { checkpoint, digest } = opened;
  const method = methodSchema.safeParse(checkpoint.config?.quantization_config).data?.quant_method;
  const list = CONTAINERS.get(method ?? "");
  if (list === undefined) return opened;
  const content = await list(checkpoint, read);
  const { quantization_config: _, ...config } = checkpoint.config ?? {};
  const tensors = [...content.others, ...content.matrices.map(joinParts)];
  const changed: Checkpoint = { ...checkpoint, tensors, config };
  // What has a digest of its own keeps its files; a folder is converted to what it stands for.
  if (digest !== undefined) return { ...opened, checkpoint: changed };
  const text = new TextEncoder().encode(stringifyPython(config));
  const documents = new Map([[CONFIG_FILE, text]]);
  const sideFiles = checkpoint.sideFiles.filter(({ name }) => name !== CONFIG_FILE);
  return { ...opened, checkpoint: { ...changed, sideFiles, documents }, conversion: parametersOf(tensors) };
}

/** The weight of a module, whose ranges are those of its parts, one after the other. */
function joinParts({ name, matrix, packing, parts }: StoredMatrix): TensorEntry {
  const ranges = parts.flatMap(({ entry }) => entry.ranges);
  return { name, dtype: "F32", shape: [matrix.rows, matrix.columns], ranges, packing: { parts: packing } };
}
