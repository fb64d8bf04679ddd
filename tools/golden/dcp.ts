// Golden cases of PyTorch distributed checkpoints: chunks must tile to the expected tensors; damaged copies must be
// refused for the reason that the set states. Source of the form: checkpoint reference, section 9.
import { basename, dirname, join } from "node:path";
import * as z from "zod";
import { openCheckpoint, openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { failed, type GoldenCase, type GoldenSet, PASSED, type Verdict } from "./case.ts";
import { judge, type Reasons } from "./refusal.ts";
import { gatherTensor, readTensor } from "./tensors.ts";

const dcpCase = z.object({
  folder: z.string(),
  expect: z.enum(["load", "refuse"]),
  reason: z.string().optional(),
  tensors: z.string().optional(),
});
const document = z.object({ written_by: z.string(), cases: z.array(dcpCase) });
type DcpCase = z.output<typeof dcpCase>;

const REASONS: Reasons = {
  chunk_coverage: ["DcpChunksInvalid"],
  storage_out_of_bounds: ["DcpChunkOutOfFile"],
  missing_file: ["DcpFileMissing"],
  bad_path: ["DcpPathInvalid"],
  incomplete_checkpoint: ["DcpMetadataMissing"],
  global_not_allowed: ["PickleGlobalRefused"],
};

/** Sets whose cases name a `folder`. */
export const dcpSet: GoldenSet = {
  id: "dcp",
  open(folder, content) {
    const parsed = document.safeParse(content);
    if (!parsed.success) return undefined;
    return parsed.data.cases.map(
      (entry): GoldenCase => ({ id: entry.folder, run: () => judge(entry, REASONS, () => load(folder, entry)) }),
    );
  },
};

async function load(folder: string, entry: DcpCase): Promise<Verdict> {
  const store = createDirectoryStore(join(folder, entry.folder), { durable: false });
  const { conversion = [] } = await openCheckpoint(store, "");
  if (entry.tensors === undefined) return PASSED;
  const file = join(folder, entry.tensors);
  const expectedStore = createDirectoryStore(dirname(file), { durable: false });
  const { checkpoint } = await openCheckpointFile(expectedStore, basename(file));
  if (conversion.length !== checkpoint.tensors.length) {
    return failed(`${conversion.length} tensors, expected ${checkpoint.tensors.length}`);
  }
  for (const expected of checkpoint.tensors) {
    const parameter = conversion.find(({ name }) => name === expected.name);
    if (parameter?.dtype !== expected.dtype || parameter.shape.join() !== expected.shape.join()) {
      return failed(
        `${expected.name} is ${parameter?.dtype} [${parameter?.shape}], not ${expected.dtype} [${expected.shape}]`,
      );
    }
    const bytes = await gatherTensor(store, parameter.name, parameter.shape, parameter);
    if (Buffer.compare(bytes, (await readTensor(expectedStore, expected)).bytes) !== 0)
      return failed(`${expected.name}: bytes differ`);
  }
  return PASSED;
}
