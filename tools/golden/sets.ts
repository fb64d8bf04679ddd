// Every form of golden set that can be run.
import type { GoldenSet } from "./case.ts";
import { mergeSet } from "./merge.ts";

export const GOLDEN_SETS: readonly GoldenSet[] = Object.freeze([mergeSet]);
