// `mergeyard inspect SRC`: what a checkpoint is, from its headers alone: format, files, tensors, dtypes, bytes,
// problems.
import type { Command } from "commander";
import * as z from "zod";
import type { TensorEntry } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { describeWarning } from "../../core/formats/format.ts";
import { parseJsonDocument } from "../../core/formats/json-scan.ts";
import { fileRole, isAdapter } from "../../core/formats/side-files.ts";
import { FOLDER_LIMITS } from "../../core/limits.ts";
import { sumOf } from "../../core/sum-of.ts";
import { elementCount, tensorBytes } from "../../core/tensor.ts";
import type { ConversionParameter } from "../../core/universal/conversion.ts";
import type { StoredCheckpoint } from "../../steps/open-checkpoint.ts";
import { openGguf } from "../../steps/open-gguf.ts";
import { readAll } from "../../stores/objects.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { familyOption, jsonOption, PATTERNS_HELP } from "../arguments.ts";
import * as report from "../gguf-report.ts";
import { type PatternOptions, readPatterns } from "../patterns-file.ts";
import { locateSource, openSource } from "../source.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes, formatCount, renderTable } from "../text.ts";

export function addInspect(program: Command, terminal: Terminal): void {
  program
    .command("inspect")
    .description("show a checkpoint's format, tensors, dtypes, bytes and problems")
    .argument("<src>", "a folder, a file, or an s3:// URI")
    .option("--tensors", "list every tensor instead of grouping the layers")
    .option("--patterns <file>", PATTERNS_HELP)
    .addOption(familyOption())
    .addOption(jsonOption())
    .action(async (source: string, options: PatternOptions & { json?: boolean; tensors?: boolean }) => {
      if (/\.gguf$/i.test(source)) return inspectGguf(source, options, terminal);
      const patterns = readPatterns(options, terminal.cwd);
      const opened = await openSource(source, createStoreOpener(terminal.env), terminal, patterns);
      const problems = opened.warnings.map(describeWarning);
      const adapter = await readAdapter(source, opened, terminal);
      printResult(terminal, options.json, { ...describeAsData(source, opened), adapter: adapter ?? null }, () =>
        describeAsText(source, { ...opened, adapter }, problems, options.tensors === true),
      );
    });
}

/** Quantized tensors have no dtype of a checkpoint, so the file is told of in its own words. */
async function inspectGguf(source: string, options: { json?: boolean }, terminal: Terminal): Promise<void> {
  const { folder, file = "" } = locateSource(source, terminal.cwd);
  const opened = await openGguf(createStoreOpener(terminal.env)(folder), file, terminal.signal);
  printResult(terminal, options.json, report.describeGgufAsData(source, opened), () =>
    report.describeGgufAsText(source, opened),
  );
}

const adapterSchema = z.looseObject({
  peft_type: z.string(),
  r: z.number().optional(),
  lora_alpha: z.number().optional(),
  base_model_name_or_path: z.string().nullish(),
});
type Adapter = z.infer<typeof adapterSchema>;

/** What the config of an adapter's folder says; undefined for any other checkpoint. */
async function readAdapter(source: string, { checkpoint }: StoredCheckpoint, terminal: Terminal) {
  const file = checkpoint.sideFiles.find(({ name }) => fileRole(name) === "adapter");
  if (file === undefined || !isAdapter(checkpoint)) return undefined;
  const store = createStoreOpener(terminal.env)(locateSource(source, terminal.cwd).folder);
  const bytes = await readAll(store, file.name, FOLDER_LIMITS.configBytes, { signal: terminal.signal });
  const refuse = (found: string) => new MergeyardError("PlanAdapterInvalid", { where: { file: file.name }, found });
  const value = parseJsonDocument(bytes, { pythonNumbers: true, refuse: ({ found }) => refuse(found) });
  const parsed = adapterSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw refuse(parsed.error.issues[0]?.message ?? "another form");
}

function adapterLines(adapter: Adapter | undefined): readonly string[] {
  if (adapter === undefined) return [];
  const { peft_type: type, r: rank, lora_alpha: alpha, base_model_name_or_path: base } = adapter;
  const numbers = rank === undefined ? "" : ` of rank ${rank}, alpha ${alpha ?? "not stated"}`;
  const what = `${type}${numbers}, on ${base ?? "a base that is not named"}`;
  return [`  adapter       ${what}; no model by itself: merge it as base+adapter`];
}

function describeAsData(
  source: string,
  { checkpoint, warnings, fingerprint, digest, conversion, described, training, family }: StoredCheckpoint,
) {
  const { format, tensorFiles, sideFiles, tensors, metadata, config } = checkpoint;
  return {
    source,
    format,
    digest: digest ?? null,
    fingerprint,
    files: tensorFiles,
    sideFiles,
    tensorCount: tensors.length,
    elements: sumOf(tensors, elementsOf),
    bytes: sumOf(tensors, bytesOf),
    dtypes: summariseDtypes(tensors),
    architectures: config?.architectures ?? null,
    metadata: Object.fromEntries(metadata),
    tensors: tensors.map(({ name, dtype, shape, ranges, packing, digest: tensorDigest }) => ({
      name,
      dtype,
      ...(packing === undefined ? {} : { packing }),
      shape,
      file: ranges[0]?.file ?? null,
      bytes: bytesOf({ name, dtype, shape, ranges, packing }),
      digest: tensorDigest ?? null,
    })),
    training: describeTraining(conversion ?? described),
    trainer: training ?? null,
    family: family ?? null,
    problems: warnings,
  };
}

/** How ranks hold each parameter, its optimizer states and what is tied to it; null where the format has no such. */
function describeTraining(parameters: readonly ConversionParameter[] | undefined) {
  if (parameters === undefined) return null;
  return parameters.map(({ name, pattern, paddedRows, aliases, training }) => ({
    name,
    pattern,
    paddedRows: paddedRows ?? null,
    aliases,
    step: training?.step ?? null,
    states: Object.keys(training?.states ?? {}),
  }));
}

/** Who saved it, where that is known. */
function trainerLines(training: StoredCheckpoint["training"]): readonly string[] {
  if (training === undefined) return [];
  const { topology, weights, groups } = training;
  if (topology === undefined && groups.length === 0) return [];
  const { tp, pp, dp, zero } = topology ?? {};
  const stage = zero === undefined ? "" : `, ZeRO ${zero}`;
  const ranks = topology === undefined ? "" : `tp ${tp}, pp ${pp}, dp ${dp}${stage}; `;
  return [`  saved by      ${ranks}${weights} weights, ${countOf(groups.length, "optimizer group")}`];
}

function trainingLines(parameters: readonly ConversionParameter[] = []): readonly string[] {
  const trained = parameters.filter(({ training }) => training !== undefined);
  const steps = [...new Set(trained.map(({ training }) => training?.step))];
  const states = [...new Set(trained.flatMap(({ training }) => Object.keys(training?.states ?? {})))];
  const patterns = [...Map.groupBy(parameters, ({ pattern }) => pattern.kind)]
    .map(([kind, members]) => `${kind} ${members.length}`)
    .sort();
  const tied = parameters.flatMap(({ name, aliases }) => aliases.map((alias) => `${alias} = ${name}`));
  const padded = parameters.flatMap(({ name, shape, paddedRows }) =>
    paddedRows === undefined || paddedRows === shape[0] ? [] : [`${name} from ${paddedRows} to ${shape[0]} rows`],
  );
  return [
    ...(trained.length === 0 ? [] : [`  training      step ${steps.join(", ")}; ${["fp32", ...states].join(", ")}`]),
    ...(trained.length === 0 ? [] : [`  ranks hold    ${patterns.join(", ")}`]),
    ...(padded.length === 0 ? [] : [`  padding cut   ${padded.join("; ")}`]),
    ...(tied.length === 0 ? [] : [`  tied          ${tied.join("; ")}`]),
  ];
}

function describeAsText(
  source: string,
  {
    checkpoint,
    conversion,
    described,
    training,
    adapter,
  }: StoredCheckpoint & { readonly adapter: Adapter | undefined },
  problems: readonly string[],
  all: boolean,
): string {
  const { format, tensorFiles, sideFiles, tensors, config } = checkpoint;
  const architectures = Array.isArray(config?.architectures)
    ? config.architectures.map(String).join(", ")
    : "not stated";
  const names = sideFiles.map((file) => file.name).join(", ");
  const fileBytes = formatBytes(sumOf(tensorFiles, (file) => file.bytes));
  return [
    source,
    `  format        ${format}, ${countOf(tensorFiles.length, "file")}, ${fileBytes}`,
    `  architecture  ${architectures}`,
    `  tensors       ${formatCount(tensors.length)}, ${formatCount(sumOf(tensors, elementsOf))} elements`,
    ...adapterLines(adapter),
    ...trainerLines(training),
    ...trainingLines(conversion ?? described),
    `  beside them   ${names === "" ? "no other files" : names}`,
    `  problems      ${problems.length === 0 ? "none" : problems.length}`,
    ...problems.map((problem) => `    ${problem}`),
    "",
    renderDtypes(tensors),
    "",
    renderTensors(tensors, all),
  ].join("\n");
}

function renderDtypes(tensors: readonly TensorEntry[]): string {
  return renderTable(
    [
      { title: "dtype", align: "left" },
      { title: "tensors", align: "right" },
      { title: "elements", align: "right" },
      { title: "bytes", align: "right" },
    ],
    Object.entries(summariseDtypes(tensors)).map(([dtype, { count, elements, bytes }]) => [
      dtype,
      formatCount(count),
      formatCount(elements),
      formatBytes(bytes),
    ]),
  );
}

/** One line for the tensors that differ in nothing but a number in their name: the layers of a model. */
function renderTensors(tensors: readonly TensorEntry[], all: boolean): string {
  const nameOf = ({ name }: TensorEntry) => (all ? name : name.replace(/(?<=^|\.)\d+(?=\.|$)/g, "*"));
  const groups = Map.groupBy(tensors, (tensor) => `${nameOf(tensor)}\n${tensor.dtype}\n${tensor.shape.join(" x ")}`);
  return renderTable(
    [
      { title: "tensor", align: "left" },
      { title: "count", align: "right" },
      { title: "dtype", align: "left" },
      { title: "shape", align: "left" },
    ],
    [...groups].map(([key, members]) => {
      const [name = "", dtype = "", shape = ""] = key.split("\n");
      return [name, String(members.length), dtype, shape === "" ? "scalar" : shape];
    }),
  );
}

function summariseDtypes(tensors: readonly TensorEntry[]) {
  return Object.fromEntries(
    [...Map.groupBy(tensors, (tensor) => tensor.dtype)].map(([dtype, members]) => [
      dtype,
      { count: members.length, elements: sumOf(members, elementsOf), bytes: sumOf(members, bytesOf) },
    ]),
  );
}

function elementsOf({ shape }: TensorEntry): number {
  return elementCount(shape);
}

/** As stored: packed values take fewer bytes than their dtype. */
function bytesOf({ dtype, shape, ranges, packing }: TensorEntry): number {
  return packing === undefined ? tensorBytes(dtype, shape) : sumOf(ranges, ({ bytes }) => bytes);
}
