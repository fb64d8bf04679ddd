// One model-state file of a DeepSpeed checkpoint: shapes and order of the rank's parameters, its buffers and frozen
// parameters as byte ranges, and what it says of the topology.
// Source: reference checkpoint-formats.md section 3.2.
import type { CheckpointFile, FolderReader } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import type { JsonObject } from "../../json.ts";
import { elementCount, type Shape } from "../../tensor.ts";
import { type CheckpointInfo, parseCheckpointInfo } from "../../universal/checkpoint-info.ts";
import { jsonObjectOf } from "../pickle/json.ts";
import {
  asKind,
  countsOf,
  describeValue,
  fieldOf,
  isCount,
  isObject,
  itemsOf,
  type PickleValue,
} from "../pickle/value.ts";
import { placeTorchTensor, readTorchFile } from "../torch/file.ts";
import type { TorchFile } from "../torch/storage.ts";
import type { PlacedTorchTensor } from "../torch/tensor.ts";
import { isStage3File, otherRank } from "./files.ts";

export type NamedShape = { readonly name: string; readonly shape: Shape };
export type PlacedByName = ReadonlyMap<string, PlacedTorchTensor>;

export type ModelState = {
  readonly file: string;
  /** Trainable parameters by optimizer group (by sub-group in stage 3), in the order of the flat buffers. */
  readonly groups: readonly (readonly NamedShape[])[];
  /** bit16 weights and buffers; those of a pipeline lie in files of its layers, where these were read. */
  readonly module: PlacedByName | undefined;
  /** Stage 3: its weights are empty placeholders. Elsewhere an empty one is an uneven slice. */
  readonly hasPlaceholders: boolean;
  readonly buffers: readonly string[];
  readonly frozenShapes: readonly NamedShape[];
  readonly frozen: PlacedByName;
  /** Alias to the name that is stored. */
  readonly shared: ReadonlyMap<string, string>;
  readonly dpWorld: number | undefined;
  readonly mpWorld: number | undefined;
  readonly dimensions: { readonly pp: number; readonly tp: number } | undefined;
  readonly info: CheckpointInfo | undefined;
  readonly roundRobin: boolean;
  /** Ranks that share the same experts are neighbours; else those of one expert-parallel group are. */
  readonly dataBeforeExperts: boolean;
  /** Names of the trainer's own arguments, where it saved them. */
  readonly trainerArguments: readonly string[];
  /** What else the file says as plain values. */
  readonly client: JsonObject;
  /** Names of what it holds that is neither known nor plain. */
  readonly dropped: readonly string[];
};

/** Keys that are told of apart, or follow from the topology. */
const OWN_KEYS = new Set([
  "module",
  "optimizer",
  "param_shapes",
  "frozen_param_shapes",
  "frozen_param_fragments",
  "shared_params",
]);

/** A torch file of a folder. Throws DeepspeedRankMisplaced, and Torch, Zip and Pickle codes. */
export async function readRankFile(folder: FolderReader, file: CheckpointFile): Promise<TorchFile> {
  const torch = await readTorchFile((offset, bytes) => folder.read(file.name, offset, bytes), file);
  const saved = otherRank(file.name, torch.root ?? "");
  if (saved !== undefined) throw misplaced(file.name, `a file that was saved as ${saved}`);
  return torch;
}

export function misplaced(file: string, found: string): MergeyardError {
  return new MergeyardError("DeepspeedRankMisplaced", { where: { file }, found, expected: "the rank's own file" });
}

/** Throws DeepspeedFieldInvalid, UniversalPatternsInvalid, and what reading and placing throw. */
export async function readModelState(folder: FolderReader, file: CheckpointFile): Promise<ModelState> {
  const torch = await readRankFile(folder, file);
  const root = torch.value;
  const get = (name: string) => fieldOf(root, name) ?? null;
  const info = get("universal_checkpoint_info");
  const dimensions = get("checkpoint_parallel_dimensions");
  const [pp, tp] = [fieldOf(dimensions, "pp_degree"), fieldOf(dimensions, "tp_degree")];
  const optional = (name: string) => {
    const value = get(name);
    return isCount(value) ? value : undefined;
  };
  const dropped: string[] = [];
  const module = get("module") === null ? undefined : placeAll(torch, get("module"));
  const groups = (itemsOf(get("param_shapes")) ?? []).map((group) => shapesOf(group, "param_shapes", file));
  const client = Object.entries(jsonObjectOf(root, (name) => dropped.push(name)));
  return {
    file: file.name,
    client: Object.fromEntries(client.filter(([name]) => !OWN_KEYS.has(name))),
    dropped: dropped.filter((name) => !OWN_KEYS.has(name.split(".")[0] ?? "")),
    groups,
    module,
    hasPlaceholders: isStage3File(file.name),
    buffers: (itemsOf(get("buffer_names")) ?? []).filter((name) => typeof name === "string"),
    frozenShapes:
      get("frozen_param_shapes") === null ? [] : shapesOf(get("frozen_param_shapes"), "frozen_param_shapes", file),
    frozen: placeAll(torch, get("frozen_param_fragments")),
    shared: new Map([...sharedStorages(module, groups), ...sharedOf(get("shared_params"))]),
    dpWorld: optional("dp_world_size"),
    mpWorld: optional("mp_world_size"),
    dimensions: isCount(pp) && isCount(tp) && pp > 0 && tp > 0 ? { pp, tp } : undefined,
    info: info === null ? undefined : parseCheckpointInfo(plainOf(info), file.name),
    trainerArguments: namesOf(get("args")),
    dataBeforeExperts: fieldOf(get("ds_config"), "use_data_before_expert_parallelism") === true,
    roundRobin: fieldOf(fieldOf(get("ds_config"), "zero_optimization"), "round_robin_gradients") === true,
  };
}

/** The tensors of a file that is one dict of them, by name. Throws Torch, Zip and Pickle codes. */
export async function readTensors(folder: FolderReader, file: CheckpointFile): Promise<PlacedByName> {
  const torch = await readRankFile(folder, file);
  return placeAll(torch, torch.value);
}

/** Keys of a dict, or fields of a record (argparse.Namespace). */
function namesOf(value: PickleValue): readonly string[] {
  const fields = asKind(value, "record")?.fields.keys() ?? [];
  const keys = [...(asKind(value, "dict")?.entries.values() ?? [])].map(({ key }) => key);
  return [...fields, ...keys].filter((name) => typeof name === "string");
}

/** The error of a field that has another form than DeepSpeed writes. */
export function fieldError(file: string, field: string, found: PickleValue | undefined, expected: string) {
  return new MergeyardError("DeepspeedFieldInvalid", { where: { file, field }, found: describeValue(found), expected });
}

function shapesOf(group: PickleValue, field: string, file: CheckpointFile): readonly NamedShape[] {
  const dict = asKind(group, "dict");
  if (dict === undefined) throw fieldError(file.name, field, group, "a dict of names and sizes");
  return [...dict.entries.values()].map(({ key, value }) => {
    const shape = countsOf(value);
    if (typeof key === "string" && shape !== undefined) return { name: key, shape };
    throw fieldError(file.name, field, value, "a name and a size");
  });
}

/** Tensors of a dict by name; what is no tensor is left out. */
function placeAll(torch: TorchFile, value: PickleValue): PlacedByName {
  const placed = new Map<string, PlacedTorchTensor>();
  for (const { key, value: item } of asKind(value, "dict")?.entries.values() ?? []) {
    const tensor = asKind(item, "tensor");
    if (typeof key === "string" && tensor !== undefined) placed.set(key, placeTorchTensor(torch, tensor, key));
  }
  return placed;
}

/** Names that view the same bytes as a trained parameter: how versions without shared_params leave tied weights. */
function sharedStorages(module: PlacedByName | undefined, groups: ModelState["groups"]): readonly [string, string][] {
  const trained = new Set(groups.flat().map(({ name }) => name));
  const bytesOf = ({ ranges, shape }: PlacedTorchTensor) => JSON.stringify([ranges, shape]);
  const named = [...(module ?? [])].flatMap(([name, tensor]) =>
    elementCount(tensor.shape) === 0 ? [] : [{ name, bytes: bytesOf(tensor) }],
  );
  const stored = new Map(named.flatMap(({ name, bytes }) => (trained.has(name) ? [[bytes, name] as const] : [])));
  return named.flatMap(({ name, bytes }): [string, string][] => {
    const own = trained.has(name) ? undefined : stored.get(bytes);
    return own === undefined ? [] : [[name, own]];
  });
}

/** A dict of aliases, or a list of pairs. */
function sharedOf(value: PickleValue): ReadonlyMap<string, string> {
  const pairs = asKind(value, "dict")?.entries.values();
  const entries =
    pairs === undefined
      ? (itemsOf(value) ?? []).map((pair) => itemsOf(pair) ?? [])
      : [...pairs].map(({ key, value: stored }) => [key, stored]);
  return new Map(
    entries.flatMap(([alias, stored]) =>
      typeof alias === "string" && typeof stored === "string" ? [[alias, stored] as const] : [],
    ),
  );
}

/** A value as plain JSON would hold it, for a zod schema. */
function plainOf(value: PickleValue): unknown {
  if (!isObject(value)) return typeof value === "bigint" ? Number(value) : value;
  if (value.kind === "list" || value.kind === "tuple" || value.kind === "set") return value.items.map(plainOf);
  if (value.kind === "dict") {
    return Object.fromEntries(
      [...value.entries.values()].map(({ key, value: item }) => [String(plainOf(key)), plainOf(item)]),
    );
  }
  if (value.kind === "record") {
    return Object.fromEntries([...value.fields].map(([key, item]) => [key, plainOf(item)]));
  }
  return value.kind;
}
