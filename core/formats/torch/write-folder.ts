// Plans a folder of torch files as Hugging Face names them: `pytorch_model.bin`, or shards and their index. Optimizer
// states are left out. Tied weights share their storage.
// Source: reference checkpoint-formats.md sections 1.4, 2.4.
import { tensorBytes } from "../../tensor.ts";
import type { TargetTensor } from "../../universal/box.ts";
import type { TargetParameter } from "../../universal/conversion.ts";
import { compareUtf8 } from "../../utf8-order.ts";
import { pyDict } from "../pickle/write.ts";
import { type PlannedFile, plainPlannedFile } from "../planned-file.ts";
import { encodeShardIndex } from "../safetensors/shard-index.ts";
import { fillFiles, shardName } from "../shards.ts";
import type { PlannedFolder, TargetFormat, TargetRequest } from "../target.ts";
import { planTorchFile, pyTensor } from "./write.ts";

export const torchTarget = Object.freeze({
  id: "torch",
  title: "torch files (pytorch_model.bin)",
  isSharded: false,
  takesDtype: "weights",
  plan: planTorchFolder,
} satisfies TargetFormat);

const SINGLE_FILE = "pytorch_model.bin";

function planTorchFolder({ parameters, shardBytes }: TargetRequest): PlannedFolder {
  const sorted = [...parameters].sort((a, b) => compareUtf8(a.name, b.name));
  const groups = fillFiles(sorted, ({ dtype, shape }) => tensorBytes(dtype, shape), { maxBytes: shardBytes });
  const nameOf = (index: number) => shardName(SINGLE_FILE, index, groups.length);
  const files = groups.map((group, index) => planShard(nameOf(index), group));
  if (groups.length === 1) return { files, last: undefined };
  const weightMap = new Map(
    groups.flatMap((group, index) =>
      group.flatMap(({ name, aliases }) => [name, ...aliases].map((each) => [each, nameOf(index)] as const)),
    ),
  );
  const total = sorted.reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0);
  return { files, last: plainPlannedFile(`${SINGLE_FILE}.index.json`, encodeShardIndex(weightMap, total)) };
}

function planShard(file: string, parameters: readonly TargetParameter[]): PlannedFile {
  const entries = parameters.flatMap(({ name, aliases, dtype, shape, gather }) => {
    const tensor: TargetTensor = { dtype, shape, gather };
    return [name, ...aliases].map((each) => [each, pyTensor(tensor)] as const);
  });
  return planTorchFile(file, pyDict(entries, { isOrdered: true }));
}
