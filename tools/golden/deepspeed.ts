// Golden cases of DeepSpeed checkpoints: what the real engine wrote must consolidate, bit for bit, to what the real
// converter makes of it; damaged copies must be refused for the reason that the set states. Source of the form:
// checkpoint reference, section 9.
import { basename, dirname, join } from "node:path";
import * as z from "zod";
import type { ConversionParameter } from "../../core/universal/conversion.ts";
import { openCheckpoint, openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { failed, type GoldenCase, type GoldenSet, PASSED, type Verdict } from "./case.ts";
import { judge, type Reasons } from "./refusal.ts";
import { runReshard } from "./reshard.ts";
import { gatherTensor, readTensor } from "./tensors.ts";

const reshard = z.object({
  target: z.object({ tp: z.int(), dp: z.int(), zero: z.union([z.string(), z.int()]) }),
  file: z.string(),
});
const goodCase = z.object({
  name: z.string(),
  reshard: z.array(reshard).optional(),
  zero_stage: z.int(),
  source: z.string(),
  universal: z.string().optional(),
  step: z.int(),
  expected: z.object({ fp32: z.string(), exp_avg: z.string(), exp_avg_sq: z.string() }),
});
const badCase = z.object({ folder: z.string(), expect: z.string(), reason: z.string() });
const document = z.object({ good: z.array(goodCase), bad: z.array(badCase) });
type GoodCase = z.output<typeof goodCase>;

const REASONS: Reasons = {
  missing_rank_file: ["DeepspeedRankMissing"],
  replicas_disagree: ["UniversalReplicasDisagree"],
  unused_pattern: ["UniversalPatternUnused"],
  ambiguous_pattern: ["UniversalPatternAmbiguous"],
  missing_universal_checkpoint_info: ["UniversalPatternsMissing"],
  bad_pattern: ["UniversalPatternInvalid"],
  partition_size_mismatch: ["DeepspeedPartitionSize"],
  fragment_coverage: ["DeepspeedFragmentCoverage"],
  steps_disagree: ["DeepspeedStepsDisagree"],
  missing_step_folder: ["DeepspeedStepMissing"],
  bad_path: ["DeepspeedPathInvalid"],
  truncated_zip: ["ZipEndMissing"],
};

/** Sets with good checkpoints of DeepSpeed and bad copies of them. */
export const deepspeedSet: GoldenSet = {
  id: "deepspeed",
  open(folder, content) {
    const parsed = document.safeParse(content);
    if (!parsed.success) return undefined;
    const { good, bad } = parsed.data;
    return [
      ...good.flatMap((entry) =>
        [entry.source, entry.universal].flatMap((name): GoldenCase[] =>
          name === undefined ? [] : [{ id: `${entry.name}/${name}`, run: () => runGood(folder, entry, name) }],
        ),
      ),
      ...good.flatMap((entry) =>
        (entry.reshard ?? []).map(
          (target): GoldenCase => ({
            id: `${entry.name}/${target.file}`,
            run: () => runReshard(join(folder, entry.name), entry.source, target),
          }),
        ),
      ),
      ...bad.map(
        (entry): GoldenCase => ({
          id: entry.folder,
          run: () => judge(entry, REASONS, () => consolidateAll(join(folder, entry.folder))),
        }),
      ),
    ];
  },
};

async function consolidateAll(folder: string): Promise<Verdict> {
  const store = createDirectoryStore(folder, { durable: false });
  const { conversion = [] } = await openCheckpoint(store, "");
  for (const parameter of conversion) await gatherTensor(store, parameter.name, parameter.shape, parameter);
  return PASSED;
}

async function runGood(folder: string, entry: GoodCase, name: string): Promise<Verdict> {
  const store = createDirectoryStore(join(folder, entry.name, name), { durable: false });
  const { conversion = [] } = await openCheckpoint(store, "");
  const trained = conversion.filter(({ training }) => training !== undefined);
  const steps = new Set(trained.map(({ training }) => training?.step));
  if (steps.size !== 1 || !steps.has(entry.step)) return failed(`steps ${[...steps]}, expected ${entry.step}`);
  for (const state of ["fp32", "exp_avg", "exp_avg_sq"] as const) {
    const verdict = await compareState(join(folder, entry.name, entry.expected[state]), store, trained, state);
    if (verdict.status === "failed") return failed(`${state}: ${verdict.why}`);
  }
  return PASSED;
}

async function compareState(
  file: string,
  store: ObjectStore,
  parameters: readonly ConversionParameter[],
  state: "fp32" | "exp_avg" | "exp_avg_sq",
): Promise<Verdict> {
  const expectedStore = createDirectoryStore(dirname(file), { durable: false });
  const { checkpoint } = await openCheckpointFile(expectedStore, basename(file));
  if (checkpoint.tensors.length !== parameters.length) {
    return failed(`${parameters.length} parameters, expected ${checkpoint.tensors.length}`);
  }
  for (const expected of checkpoint.tensors) {
    const parameter = parameters.find(({ name }) => name === expected.name);
    const tensor = state === "fp32" ? parameter : parameter?.training?.states[state];
    if (parameter === undefined || tensor === undefined) return failed(`no parameter ${expected.name}`);
    if (tensor.dtype !== expected.dtype || parameter.shape.join() !== expected.shape.join()) {
      return failed(`${expected.name} is ${tensor.dtype} [${parameter.shape}], not [${expected.shape}]`);
    }
    const bytes = await gatherTensor(store, parameter.name, parameter.shape, tensor);
    if (Buffer.compare(bytes, (await readTensor(expectedStore, expected)).bytes) !== 0) {
      return failed(`${expected.name}: bytes differ`);
    }
  }
  return PASSED;
}
