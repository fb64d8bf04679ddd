// The part of `mergeyard quantize` that makes a folder for servers: it appears whole or not at all.
import { MEMORY_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { quantizeFolderStep } from "../../steps/quantize/folder.ts";
import { runStep } from "../../steps/step.ts";
import { createPartsExecutor } from "../../workers/parts-executor.ts";
import { defaultThreads } from "../../workers/pool.ts";
import { locateFile, toUri } from "../arguments.ts";
import { type ChooseSchemes, describePlan } from "../bit-plan.ts";
import { intoFolder } from "../output.ts";
import { checkOutputFile } from "../output-file.ts";
import { createProgress, readingProgress } from "../progress.ts";
import { writeQuantizationReport } from "../quantization-report.ts";
import { sourceInput } from "../source.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, describeLoss, formatBytes } from "../text.ts";

export type FolderOptions = {
  /** What the folder holds: compressed-tensors, or another tool's. */
  readonly format: string;
  readonly out: string;
  readonly force: boolean;
  readonly imatrix?: string;
  readonly ignore: readonly string[];
  readonly hessian?: string;
  readonly report?: string;
  readonly threads?: number;
  readonly memory?: number;
  readonly json?: boolean;
};

/** Throws what opening the source and the step throw, and CliOutputOccupied. */
export async function quantizeFolder(
  source: string,
  options: FolderOptions,
  choose: ChooseSchemes,
  terminal: Terminal,
): Promise<void> {
  await checkOutputFile(options.report, terminal, options.out);
  const located = sourceInput(source, terminal.cwd);
  const progress = createProgress(terminal, { silent: options.json === true });
  const { result, planned } = await intoFolder(options, terminal, async ({ target, deps }) => {
    const executor = createPartsExecutor(deps.openStore);
    const fileOf = (file: string | undefined) => (file === undefined ? undefined : locateFile(file, terminal.cwd));
    try {
      const place = { ...located, ignore: options.ignore };
      const { scheme, planned } = await choose({ ...place, imatrix: fileOf(options.imatrix) });
      const input = { ...place, target, scheme, hessian: fileOf(options.hessian) };
      const result = await runStep(quantizeFolderStep, input, {
        ...deps,
        executeParts: executor.execute,
        threads: options.threads ?? defaultThreads(),
        memoryBytes: options.memory ?? MEMORY_BYTES_DEFAULT,
        ...readingProgress(progress, "quantize"),
      });
      return { result, planned };
    } finally {
      await executor.close();
    }
  }).finally(() => progress.end());
  const drawn = { output: `${options.format} ${result.scheme}`, tensors: result.losses };
  await writeQuantizationReport(options.report, drawn, planned, terminal);
  const made = { ...result, target: toUri(options.out, terminal.cwd) };
  printResult(terminal, options.json, planned === undefined ? made : { ...made, plan: planned }, () => {
    const bits = (8 * result.bytes) / result.elements;
    const counts = `${countOf(result.tensors, "tensor")}, ${formatBytes(result.bytes)}, ${bits.toFixed(2)} bits each`;
    const quantized = `${countOf(result.quantized, "module")} quantized`;
    const line = `${result.scheme} in ${options.out}: ${quantized}; ${counts}; ${describeLoss(result)}`;
    return planned === undefined ? line : `${describePlan(planned)}\n${line}`;
  });
}
