// Plans a PyTorch distributed checkpoint: `.distcp` files that are torch files one after the other, and `.metadata`,
// written last. Names are those of get_model_state_dict and get_optimizer_state_dict under "model" and "optim", the
// optimizer's groups in both forms that a trainer may ask for; a model without optimizer states keeps its own names.
// Source: reference checkpoint-formats.md section 6.1.
import { type Shape, tensorBytes } from "../../tensor.ts";
import type { TargetTensor } from "../../universal/box.ts";
import { STATE_NAMES, type TargetParameter } from "../../universal/conversion.ts";
import { compareUtf8 } from "../../utf8-order.ts";
import {
  encodePickle,
  type Picklable,
  pyDict,
  pyList,
  pyRecord,
  pySize,
  pyTuple,
  type StoredTensor,
  torchDtype,
} from "../pickle/write.ts";
import { type PlannedArchive, type PlannedFile, plainPlannedFile } from "../planned-file.ts";
import { fillFiles } from "../shards.ts";
import type { PlannedFolder, TargetFormat, TargetRequest } from "../target.ts";
import { planTorchArchive, pyTensor, scalarTensor } from "../torch/write.ts";
import { type DcpPath, type GroupObject, groupObjects } from "./groups-write.ts";

export const dcpTarget = Object.freeze({
  id: "dcp",
  title: "PyTorch distributed checkpoint (DCP)",
  isSharded: false,
  takesDtype: "weights",
  plan: planDcp,
} satisfies TargetFormat);

/** A tensor under all its names. */
type DcpTensor = TargetTensor & { readonly names: readonly DcpName[] };
type DcpName = { readonly name: string; readonly path: DcpPath };
type DcpPlace = { readonly file: string; readonly offset: number; readonly bytes: number };
type PlacedDcpTensor = DcpTensor & DcpPlace;
/** A pickled object under all its names. */
type PlacedDcpObject = DcpPlace & { readonly names: readonly DcpName[] };

function planDcp({ parameters, training, shardBytes }: TargetRequest): PlannedFolder {
  const sorted = [...parameters].sort((a, b) => compareUtf8(a.name, b.name));
  const isTrained = sorted.some(({ training }) => training !== undefined);
  const tensors = [
    ...sorted.map((parameter) => weightOf(parameter, isTrained)),
    ...sorted.flatMap((parameter) => statesOf(parameter)),
  ];
  const placed: PlacedDcpTensor[] = [];
  const bytesOf = ({ dtype, shape }: DcpTensor) => tensorBytes(dtype, shape);
  const files = fillFiles(tensors, bytesOf, { maxBytes: shardBytes }).map((group, index): PlannedFile => {
    const file = `__0_${index}.distcp`;
    const archives: PlannedArchive[] = [];
    let offset = 0;
    for (const tensor of group) {
      const archive = planTorchArchive(pyTensor(tensor), tensor.names[0]?.name ?? "");
      placed.push({ ...tensor, file, offset, bytes: archive.bytes });
      archives.push(archive);
      offset += archive.bytes;
    }
    return { name: file, bytes: offset, archives };
  });
  const objects = planObjects(groupObjects(parameters, training), `__0_${files.length}.distcp`);
  const last = plainPlannedFile(".metadata", encodeMetadata(placed, objects.placed));
  return { files: [...files, ...objects.files], last };
}

/** One file of pickled objects, where there are any. */
function planObjects(objects: readonly GroupObject[], file: string) {
  const archives: PlannedArchive[] = [];
  const placed: PlacedDcpObject[] = [];
  let offset = 0;
  for (const { value, paths } of objects) {
    const names = paths.map((path) => ({ name: path.join("."), path }));
    const archive = planTorchArchive(value, names[0]?.name ?? file);
    archives.push(archive);
    placed.push({ names, file, offset, bytes: archive.bytes });
    offset += archive.bytes;
  }
  const files: readonly PlannedFile[] = archives.length === 0 ? [] : [{ name: file, bytes: offset, archives }];
  return { files, placed };
}

function weightOf({ name, aliases, dtype, shape, gather }: TargetParameter, isTrained: boolean): DcpTensor {
  const names = [name, ...aliases].map((each): DcpName => {
    return isTrained ? { name: `model.${each}`, path: ["model", each] } : { name: each, path: [each] };
  });
  return { dtype, shape, gather, names };
}

function statesOf({ name, shape, training }: TargetParameter): readonly DcpTensor[] {
  if (training === undefined) return [];
  const nameOf = (state: string): DcpName[] => {
    return [{ name: `optim.state.${name}.${state}`, path: ["optim", "state", name, state] }];
  };
  const moments = STATE_NAMES.flatMap((state): DcpTensor[] => {
    const moment = training.states[state];
    return moment === undefined ? [] : [{ ...moment, shape, names: nameOf(state) }];
  });
  return [...moments, { ...scalarTensor(training.step), names: nameOf("step") }];
}

const METADATA = "torch.distributed.checkpoint.metadata";

function encodeMetadata(tensors: readonly PlacedDcpTensor[], objects: readonly PlacedDcpObject[]): Uint8Array {
  const named = tensors.flatMap((tensor) => tensor.names.map((name) => ({ ...tensor, ...name })));
  const others = objects.flatMap((object) => object.names.map((name) => ({ ...object, ...name })));
  const ofBytes = pyRecord(`${METADATA} BytesStorageMetadata`, {});
  const value: Picklable = pyRecord<never>(`${METADATA} Metadata`, {
    state_dict_metadata: pyDict([
      ...named.map((tensor) => [tensor.name, describeTensor(tensor)] as const),
      ...others.map(({ name }) => [name, ofBytes] as const),
    ]),
    planner_data: pyDict([...named, ...others].map(({ name, path }) => [name, pyTuple(path)] as const)),
    storage_data: pyDict([
      ...named.map((tensor) => [indexOf(tensor), placeOf(tensor)] as const),
      ...others.map((object) => [objectIndexOf(object), placeOf(object)] as const),
    ]),
    storage_meta: null,
    version: null,
  });
  return encodePickle<StoredTensor>(value, () => "");
}

function zeros(shape: Shape): Picklable {
  return pySize(shape.map(() => 0));
}

/** One chunk that is the whole tensor. */
function describeTensor({ dtype, shape }: TargetTensor): Picklable {
  const layout: Picklable = { kind: "call", name: "torch.serialization _get_layout", args: ["torch.strided"] };
  const contiguous: Picklable = { kind: "call", name: `${METADATA} _MEM_FORMAT_ENCODING`, args: [0] };
  return pyRecord(`${METADATA} TensorStorageMetadata`, {
    properties: {
      kind: "record",
      name: `${METADATA} TensorProperties`,
      state: pyTuple([torchDtype(dtype), layout, false, contiguous, false]),
    },
    size: pySize(shape),
    chunks: pyList([pyRecord(`${METADATA} ChunkStorageMetadata`, { offsets: zeros(shape), sizes: pySize(shape) })]),
  });
}

function indexOf({ name, shape }: { readonly name: string; readonly shape: Shape }): Picklable {
  return pyRecord(`${METADATA} MetadataIndex`, { fqn: name, offset: zeros(shape), index: 0 });
}

function objectIndexOf({ name }: DcpName): Picklable {
  return pyRecord(`${METADATA} MetadataIndex`, { fqn: name, offset: null, index: null });
}

function placeOf({ file, offset, bytes }: DcpPlace): Picklable {
  return pyRecord("torch.distributed.checkpoint.filesystem _StorageInfo", {
    relative_path: file,
    offset,
    length: bytes,
  });
}
