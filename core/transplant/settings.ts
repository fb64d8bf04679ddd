// Settings that name tokens by their ids, for a model that takes another's tokenizer.

import { isJsonObject } from "../json.ts";
import { TEXT_CONFIG_KEYS } from "../plan/architecture.ts";

type Settings = Readonly<Record<string, unknown>>;

/** Ids that any model may name, beside those that the base's settings do. */
const COMMON_IDS = "bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id".split(
  " ",
);

/** What the donor says of ids: in its settings, first those of the same kind, and by its tokenizer's special tokens. */
export type DonorIds = {
  readonly settings: readonly (Settings | undefined)[];
  readonly roles: ReadonlyMap<string, number>;
};

/** The donor's id of a token that the base knows by an id; undefined where the donor has no such token. */
export type Renumber = (id: number) => number | undefined;

/** The base's config.json with the donor's vocabulary. */
export function transplantConfig(config: Settings, rows: number, donor: DonorIds, renumber: Renumber): Settings {
  const made: Record<string, unknown> = { ...config };
  const sections = [made];
  for (const key of TEXT_CONFIG_KEYS) {
    const section = made[key];
    if (!isJsonObject(section)) continue;
    const own = { ...section };
    made[key] = own;
    sections.push(own);
  }
  const main = sections.find((section) => typeof section.vocab_size === "number") ?? made;
  main.vocab_size = rows;
  for (const section of sections) setIds(section, donor, renumber, section === main);
  return made;
}

/** The base's generation_config.json with the donor's ids. */
export function transplantGeneration(generation: Settings, donor: DonorIds, renumber: Renumber): Settings {
  const made = { ...generation };
  setIds(made, donor, renumber, true);
  return made;
}

/** What nobody can say is left out: an id of the base would mean another token. */
function setIds(section: Record<string, unknown>, donor: DonorIds, renumber: Renumber, takesAll: boolean): void {
  const own = Object.keys(section).filter((key) => /(?:^|_)token_id$/.test(key));
  for (const key of new Set([...own, ...(takesAll ? COMMON_IDS : [])])) {
    const said = donorId(key, donor);
    const value = said === undefined ? renumberAll(section[key], renumber) : said;
    if (value === undefined) delete section[key];
    else section[key] = value;
  }
}

/** Of its settings where they say it, else of its tokenizer; null where they say that there is none. */
function donorId(key: string, { settings, roles }: DonorIds): unknown {
  const said = settings.find((document) => document?.[key] !== undefined);
  return said === undefined ? roles.get(key.replace(/_id$/, "")) : said[key];
}

function renumberAll(value: unknown, renumber: Renumber): unknown {
  if (typeof value === "number") return renumber(value);
  if (!Array.isArray(value)) return value;
  const ids = value.flatMap((id) => (typeof id === "number" ? (renumber(id) ?? []) : []));
  return ids.length > 0 ? ids : undefined;
}
