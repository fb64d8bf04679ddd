// Golden cases of whole GGUF files: a small model through the quantize step must have the reference's tensors, byte for
// byte, and its metadata. The tokenizer and the name of the reference's file are made up and left out.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { GgufHeader } from "../../core/formats/gguf/gguf.ts";
import { MEMORY_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { openGguf } from "../../steps/open-gguf.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { runStep } from "../../steps/step.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { failed, PASSED, type Verdict } from "./case.ts";

export type GgufCase = {
  readonly input: string;
  readonly config: string;
  readonly expected: string;
  /** Id of a mix. */
  readonly mix: string;
};

const MADE_UP = /^general\.name$|^tokenizer\./;

/** The verdict on one file. */
export async function runGguf(folder: string, { input, config, expected, mix }: GgufCase): Promise<Verdict> {
  const golden = createDirectoryStore(folder, { durable: false });
  const store = createMemoryStore(`golden-${mix}-${process.hrtime.bigint()}`);
  for (const [file, name] of [
    [input, "model.safetensors"],
    [config, "config.json"],
  ] as const) {
    const bytes = readFileSync(join(folder, file));
    await writeBytes(store, name, bytes);
  }
  const request = { source: store.uri, target: store.uri, name: "out.gguf", scheme: mix, tokenizer: false };
  const openStore = () => store;
  await runStep(quantizeStep, request, {
    openStore,
    executeQuantize: createQuantizeExecutor(openStore).execute,
    threads: 1,
    memoryBytes: MEMORY_BYTES_DEFAULT,
    now: () => 0,
    log: () => {},
    signal: new AbortController().signal,
  });
  const [got, wanted] = [await openGguf(store, "out.gguf"), await openGguf(golden, expected)];
  const why = compareMetadata(got.header, wanted.header);
  if (why !== undefined) return failed(why);
  if (got.header.tensors.length !== wanted.header.tensors.length) return failed("another number of tensors");
  for (const tensor of wanted.header.tensors) {
    const own = got.header.tensors.find(({ name }) => name === tensor.name);
    if (own === undefined) return failed(`no tensor ${tensor.name}`);
    if (own.type !== tensor.type || own.shape.join() !== tensor.shape.join()) {
      return failed(`${own.name} is ${own.type.name} [${own.shape}], not ${tensor.type.name} [${tensor.shape}]`);
    }
    const bytes = await readBytes(store, "out.gguf", own);
    if (Buffer.compare(bytes, await readBytes(golden, expected, tensor)) !== 0)
      return failed(`${own.name}: bytes differ`);
  }
  return PASSED;
}

function compareMetadata(got: GgufHeader, wanted: GgufHeader): string | undefined {
  const listed = ({ metadata }: GgufHeader) =>
    [...metadata]
      .filter(([key]) => !MADE_UP.test(key))
      .map((entry) => JSON.stringify(entry))
      .sort();
  const [own, golden] = [new Set(listed(got)), new Set(listed(wanted))];
  const differing = [...own.symmetricDifference(golden)];
  return differing.length === 0 ? undefined : `metadata differs: ${differing.join(", ")}`;
}

async function readBytes(
  store: ObjectStore,
  key: string,
  { offset, bytes }: { readonly offset: number; readonly bytes: number },
): Promise<Uint8Array> {
  const into = new Uint8Array(bytes);
  await store.readInto(key, offset, into);
  return into;
}
