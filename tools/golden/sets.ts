// Every form of golden set that can be run.
import type { GoldenSet } from "./case.ts";
import { mergeSet } from "./merge.ts";
import { torchSet } from "./torch.ts";

export const GOLDEN_SETS: readonly GoldenSet[] = Object.freeze([mergeSet, torchSet]);
