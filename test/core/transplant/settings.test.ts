// Goal: settings name the donor's ids, and no id of the base stays that means another token now. Method: documents.
import assert from "node:assert/strict";
import { test } from "node:test";
import { transplantConfig, transplantGeneration } from "../../../core/transplant/settings.ts";

const renumber = (id: number): number | undefined => (id < 10 ? id + 100 : undefined);

test("ids are the donor's by its settings, by its tokenizer, then those of the same tokens", () => {
  const donor = { settings: [{ eos_token_id: [5, 6], pad_token_id: null }], roles: new Map([["bos_token", 7]]) };
  const config = {
    bos_token_id: 1,
    eos_token_id: 2,
    pad_token_id: 3,
    image_token_id: 4,
    audio_token_id: 40,
    forced_token_id: [1, 40],
    sep_token_id: null,
    text_config: { vocab_size: 9, eos_token_id: 2 },
    hidden_size: 8,
  };
  assert.deepEqual(transplantConfig(config, 50, donor, renumber), {
    bos_token_id: 7,
    eos_token_id: [5, 6],
    pad_token_id: null,
    image_token_id: 104,
    forced_token_id: [101],
    sep_token_id: null,
    text_config: { vocab_size: 50, bos_token_id: 7, eos_token_id: [5, 6], pad_token_id: null },
    hidden_size: 8,
  });
  assert.deepEqual(config.text_config, { vocab_size: 9, eos_token_id: 2 }, "the base's own is not touched");
});

test("generation settings take the donor's first", () => {
  const donor = { settings: [{ eos_token_id: 9 }, { eos_token_id: 5, pad_token_id: 4 }], roles: new Map() };
  const made = transplantGeneration({ eos_token_id: 2, temperature: 0.5 }, donor, renumber);
  assert.deepEqual(made, { eos_token_id: 9, pad_token_id: 4, temperature: 0.5 });
});
