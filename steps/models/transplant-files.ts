// The files beside the weights of a model that takes another's tokenizer: the donor's tokenizer as it is, and the
// model's settings with the donor's ids.
import { MergeyardError } from "../../core/error.ts";
import { fileRole } from "../../core/formats/side-files.ts";
import { isJsonObject, stringifyPython } from "../../core/json.ts";
import { configSections } from "../../core/plan/architecture.ts";
import {
  GENERATION_FILE,
  parseObject,
  SPECIAL_TOKENS_FILE,
  TOKENIZER_CONFIG_FILE,
  TOKENIZER_FILE,
} from "../../core/plan/documents.ts";
import { createEncoder, type Encode } from "../../core/tokenizer/encode/encoder.ts";
import { readTokenizerJson } from "../../core/tokenizer/tokenizer-json.ts";
import { NO_ROW, type TokenMatches, type UsedTokenizer } from "../../core/transplant/match-tokens.ts";
import { transplantConfig, transplantGeneration } from "../../core/transplant/settings.ts";
import { copyAcross, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { travellingFiles, writtenDocuments } from "../open-checkpoint.ts";
import { readDocuments } from "../read-documents.ts";
import type { ReadableModel } from "./whole-tensors.ts";

type Document = Readonly<Record<string, unknown>>;

/** A model's tokenizer, what its settings say of generation, and the encoder of text, which may not be known. */
export type StoredTokenizer = UsedTokenizer & {
  readonly generation: Document | undefined;
  readonly createEncoder: () => Encode;
};

const ROLES = "bos_token eos_token unk_token sep_token pad_token cls_token mask_token".split(" ");

/** Throws PlanTokenizerMissing, PlanTokenizerInvalid, PlanDocumentInvalid, and what the store throws. */
export async function openTokenizer(model: ReadableModel, signal: AbortSignal): Promise<StoredTokenizer> {
  const { store, prefix, opened } = model;
  const names = [TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE, GENERATION_FILE];
  const documents = await readDocuments(model, opened.checkpoint, names, signal);
  const placeOf = (name: string) => ({ store: store.uri, file: `${prefix}${name}` });
  const bytes = documents.get(TOKENIZER_FILE);
  if (bytes === undefined) {
    const expected = `${TOKENIZER_FILE} beside the weights`;
    throw new MergeyardError("PlanTokenizerMissing", {
      where: { store: store.uri },
      found: `no ${TOKENIZER_FILE}`,
      expected,
    });
  }
  const read = (name: string): Document | undefined => {
    const own = documents.get(name);
    return own === undefined ? undefined : parseObject(own, placeOf(name));
  };
  const settings = { ...read(TOKENIZER_CONFIG_FILE), ...read(SPECIAL_TOKENS_FILE) };
  const roles = new Map<string, string>();
  for (const role of ROLES) {
    const said = settings[role];
    const text = isJsonObject(said) ? said.content : said;
    if (typeof text === "string") roles.set(role, text);
  }
  const place = placeOf(TOKENIZER_FILE);
  return {
    tokenizer: readTokenizerJson(bytes, place),
    roles,
    generation: read(GENERATION_FILE),
    createEncoder: () => createEncoder(bytes, place),
  };
}

type Transplanted = {
  readonly model: ReadableModel & { readonly tokenizer: StoredTokenizer };
  readonly donor: ReadableModel & { readonly tokenizer: StoredTokenizer };
  readonly matches: TokenMatches;
};

/** Writes all files but the weights. Throws what the stores throw. */
export async function writeTransplantedFiles(
  target: ObjectStore,
  { model, donor, matches }: Transplanted,
  signal: AbortSignal,
): Promise<void> {
  const write = (name: string, document: Document) =>
    writeBytes(target, name, new TextEncoder().encode(stringifyPython(document)), { signal });
  const [ownConfig, donorConfig] = [model.opened.checkpoint.config, donor.opened.checkpoint.config];
  const { generation } = model.tokenizer;
  const roles = new Map(
    [...donor.tokenizer.roles].flatMap(([role, text]) => {
      const id = donor.tokenizer.tokenizer.vocabulary.ids.get(text);
      return id === undefined ? [] : [[role, id] as const];
    }),
  );
  const configs = configSections(donorConfig);
  const renumber = (row: number): number | undefined => {
    const id = matches.same.indexOf(row);
    return id === NO_ROW ? undefined : id;
  };
  if (ownConfig !== undefined) {
    const ids = { settings: [...configs, donor.tokenizer.generation], roles };
    await write("config.json", transplantConfig(ownConfig, matches.isToken.length, ids, renumber));
  }
  if (generation !== undefined) {
    const ids = { settings: [donor.tokenizer.generation, ...configs], roles };
    await write(GENERATION_FILE, transplantGeneration(generation, ids, renumber));
  }
  const own = filesOf(model, (name) => !["config", "generation", "index", "tokenizer"].includes(fileRole(name)));
  const taken = filesOf(donor, (name) => fileRole(name) === "tokenizer");
  for (const { name, place, bytes } of [...own, ...taken]) {
    if (bytes !== undefined) await writeBytes(target, name, bytes, { signal });
    else await copyAcross(place.store, `${place.prefix}${name}`, target, name, { signal });
  }
}

/** Files that travel with a model, and documents that its format says in other words. */
function filesOf(place: ReadableModel, isMeant: (name: string) => boolean) {
  const stored = travellingFiles(place.opened).map(({ name }) => ({ name, place, bytes: undefined }));
  const written = writtenDocuments(place.opened).map(({ name, bytes }) => ({ name, place, bytes }));
  return [...stored, ...written].filter(({ name }) => isMeant(name));
}
