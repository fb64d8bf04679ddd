// Every form of golden set that can be run.
import type { GoldenSet } from "./case.ts";
import { dcpSet } from "./dcp.ts";
import { deepspeedSet } from "./deepspeed.ts";
import { mergeSet } from "./merge.ts";
import { quantSet } from "./quant.ts";
import { torchSet } from "./torch.ts";

export const GOLDEN_SETS: readonly GoldenSet[] = Object.freeze([mergeSet, quantSet, torchSet, deepspeedSet, dcpSet]);
