// The part of `mergeyard quantize` that makes a GGUF file, or a set of them; `convert --to gguf` makes one of floats.
import { statSync } from "node:fs";
import path from "node:path";
import { MergeyardError } from "../../core/error.ts";
import { MEMORY_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { runStep } from "../../steps/step.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { defaultThreads } from "../../workers/pool.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { isUri, locateFile, toOutputUri, toUri } from "../arguments.ts";
import { type ChooseSchemes, describePlan } from "../bit-plan.ts";
import { checkOutputFile } from "../output-file.ts";
import { createProgress, readingProgress } from "../progress.ts";
import { writeQuantizationReport } from "../quantization-report.ts";
import { sourceInput } from "../source.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, describeLoss, formatBytes } from "../text.ts";

export type FileOptions = {
  readonly out: string;
  readonly force: boolean;
  readonly imatrix?: string;
  readonly tokenizer: boolean;
  readonly splitMaxSize?: number;
  readonly splitMaxTensors?: number;
  readonly report?: string;
  readonly threads?: number;
  readonly memory?: number;
  readonly json?: boolean;
};

/** Found before anything is read, not when the file is written. */
function refuseFolder(out: string, { cwd }: Terminal): void {
  if (isUri(out) || !statSync(path.resolve(cwd, out), { throwIfNoEntry: false })?.isDirectory()) return;
  const expected = `the name of a file, such as ${path.join(out, "model.gguf")}`;
  throw new MergeyardError("CliOutputOccupied", { where: { file: out }, found: "a folder", expected });
}

/** Throws what opening the source and the step throw, and CliOutputOccupied. */
export async function quantizeFile(
  source: string,
  options: FileOptions,
  choose: ChooseSchemes,
  terminal: Terminal,
): Promise<void> {
  const openStore = createStoreOpener(terminal.env);
  const located = sourceInput(source, terminal.cwd);
  const place = path.posix.dirname(toUri(options.out, terminal.cwd));
  const target = toOutputUri(place, terminal.cwd);
  const name = path.basename(options.out);
  refuseFolder(options.out, terminal);
  await checkOutputFile(options.report, terminal, path.dirname(options.out));
  const progress = createProgress(terminal, { silent: options.json === true });
  const executor = createQuantizeExecutor(openStore);
  const deps = {
    ...createStepDeps(terminal, openStore),
    executeQuantize: executor.execute,
    threads: options.threads ?? defaultThreads(),
    memoryBytes: options.memory ?? MEMORY_BYTES_DEFAULT,
    ...readingProgress(progress, "quantize"),
  };
  try {
    const { tokenizer } = options;
    const imatrix = options.imatrix === undefined ? undefined : locateFile(options.imatrix, terminal.cwd);
    const from = { ...located, imatrix };
    const { scheme, planned } = await choose({ ...from, tokenizer });
    const split = { maxBytes: options.splitMaxSize, maxTensors: options.splitMaxTensors };
    const input = { ...from, target, name, replace: options.force, scheme, tokenizer, split };
    const made = await runStep(quantizeStep, input, deps);
    const result = { ...made, target: place };
    progress.end();
    const drawn = { output: `gguf ${result.scheme}`, tensors: result.losses };
    await writeQuantizationReport(options.report, drawn, planned, terminal);
    printResult(terminal, options.json, planned === undefined ? result : { ...result, plan: planned }, () => {
      const bits = (8 * result.bytes) / result.elements;
      const tokens = result.hasTokenizer ? "" : "; no tokenizer";
      const kinds = Map.groupBy(result.losses, ({ scheme }) => scheme);
      const schemes = [...kinds].map(([scheme, own]) => `${own.length} ${scheme}`).join(", ");
      const size = `${formatBytes(result.bytes)}, ${bits.toFixed(2)} bits each`;
      const counts = `${countOf(result.tensors, "tensor")} (${schemes}), ${size}`;
      const place =
        result.files.length === 1 ? options.out : `${result.files[0]} and the ${result.files.length - 1} after it`;
      const others =
        result.leftOut === 0 ? "" : `; without ${countOf(result.leftOut, "tensor")} outside of the text model`;
      const line = `${result.scheme} in ${place}: ${counts}; ${describeLoss(result)}${tokens}${others}`;
      return planned === undefined ? line : `${describePlan(planned)}\n${line}`;
    });
  } finally {
    progress.end();
    await executor.close();
  }
}
