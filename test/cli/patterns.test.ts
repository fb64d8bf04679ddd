// `--patterns FILE` and `--family NAME`: what a checkpoint of several tensor-parallel ranks does not say itself.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import test from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "./recorder.ts";

const GOLDEN = path.resolve(import.meta.dirname, "../golden");

const PATTERNS = `
tp_replicated_parameter_patterns: ['.*layernorm\\.weight$', '.*dense_4h_to_h\\.bias$']
parameter_with_row_parallelism_patterns: ['.*dense\\.weight$', '.*dense_4h_to_h\\.weight$']
`;

test("inspect and convert take patterns from a file, and refuse what is none", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "mergeyard-patterns-"));
  try {
    const source = "deepspeed/bad_no_ucinfo";
    const bare = createRecorder({ cwd: GOLDEN });
    assert.equal(await main(["inspect", source, "--json"], bare), 1);
    assert.match(bare.err(), /UniversalPatternsMissing/);
    const file = path.join(folder, "patterns.yaml");
    writeFileSync(file, PATTERNS);
    const terminal = createRecorder({ cwd: GOLDEN });
    assert.equal(await main(["inspect", source, "--json", "--patterns", file], terminal), 0, terminal.err());
    const { training } = JSON.parse(terminal.out());
    const row = training.find(({ name }: { name: string }) => name.endsWith("layers.0.self_attention.dense.weight"));
    assert.deepEqual(row.pattern, { kind: "fragment", dim: 1 });
    for (const [text, field] of [
      ["tp_replicated_parameter_patterns: 3", /tp_replicated_parameter_patterns/],
      ["a: [", /YAML/],
      [PATTERNS.replace("tp_replicated_parameter", "tp_replicated"), /tp_replicated_patterns/],
    ] as const) {
      writeFileSync(file, text);
      const refused = createRecorder({ cwd: GOLDEN });
      assert.equal(await main(["inspect", source, "--json", "--patterns", file], refused), 1);
      assert.match(refused.err(), /UniversalPatternsInvalid/);
      assert.match(refused.err(), field);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("convert takes a family by name, says so, and refuses names that its table lacks", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "mergeyard-family-"));
  try {
    const source = "deepspeed/bad_no_ucinfo";
    const wrong = createRecorder({ cwd: GOLDEN });
    assert.equal(await main(["inspect", source, "--family", "bert"], wrong), 2);
    const refused = createRecorder({ cwd: GOLDEN });
    assert.equal(await main(["inspect", source, "--family", "llama", "--json"], refused), 1);
    assert.match(refused.err(), /UniversalPatternsMissing/);
    assert.match(refused.err(), /the family's table does not name \(llama\)/);
    const bare = createRecorder({ cwd: GOLDEN });
    const none = path.join(folder, "none");
    assert.equal(await main(["convert", source, "--to", "universal", "--out", none], bare), 1);
    assert.match(bare.err(), /--family \(llama, mixtral, gpt-neox, megatron-gpt, megatron-core\)/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
