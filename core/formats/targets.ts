// Every format that files are planned for from any source. Adding one: its file and a line here. Safetensors folders
// and universal checkpoints have their own way: between the two files are copied.
import { dcpTarget } from "./dcp/write.ts";
import { deepspeedUniversalTarget } from "./deepspeed/universal-write.ts";
import { deepspeedTarget } from "./deepspeed/write.ts";
import type { TargetFormat } from "./target.ts";
import { torchTarget } from "./torch/write-folder.ts";

export const TARGETS: ReadonlyMap<string, TargetFormat> = new Map(
  [torchTarget, dcpTarget, deepspeedUniversalTarget, deepspeedTarget].map((target) => [target.id, target]),
);
