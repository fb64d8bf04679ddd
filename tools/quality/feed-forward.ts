// What a llama-like decoder does between attentions: one gated layer, or a router and experts as Mixtral has them.
import { gateSilu } from "./layers.ts";
import type { Buffer32, Layers, LinearWeights } from "./linear.ts";
import { numberOf, type Weights } from "./weights.ts";

/** y [rows, width] of x [rows, width]; the two must not overlap. */
export type FeedForward = (y: Buffer32, x: Buffer32, rows: number) => void;

/** Hears the logits [rows, experts] of a router; `prefix` is the names' part before the experts. */
export type OnRoute = (prefix: string, logits: Float32Array) => void;

type Gated = { readonly gate: LinearWeights; readonly up: LinearWeights; readonly down: LinearWeights };

/** The weights of the layer `name`, without a bias. */
export function loadLinear(layers: Layers, weights: Weights, name: string): LinearWeights {
  const [outs = 0, ins = 0] = weights.shape(`${name}.weight`);
  return layers.load(weights.values(`${name}.weight`), outs, ins);
}

/** Those of all layers, for at most `rowsMax` rows at a time. */
export function createFeedForwards(
  layers: Layers,
  weights: Weights,
  rowsMax: number,
  onRoute?: OnRoute,
): readonly FeedForward[] {
  const width = numberOf(weights, "hidden_size");
  const inner = numberOf(weights, "intermediate_size");
  const [gate, up] = [layers.allocate(rowsMax * inner), layers.allocate(rowsMax * inner)];
  const runGated: (own: Gated) => FeedForward = (own) => (y, x, rows) => {
    layers.linear(gate, x, own.gate, rows);
    layers.linear(up, x, own.up, rows);
    gateSilu(gate.values, up.values, rows * inner);
    layers.linear(y, gate, own.down, rows);
  };
  const load = (name: string) => loadLinear(layers, weights, name);
  const indices = Array.from({ length: numberOf(weights, "num_hidden_layers") }, (_, index) => index);
  const count = numberOf(weights, "num_local_experts", 0);
  if (count === 0) {
    return indices.map((index) => {
      const part = (name: string) => load(`model.layers.${index}.mlp.${name}_proj`);
      return runGated({ gate: part("gate"), up: part("up"), down: part("down") });
    });
  }
  const [taken, made] = [layers.allocate(rowsMax * width), layers.allocate(rowsMax * width)];
  const logits = layers.allocate(rowsMax * count);
  return indices.map((index) => {
    const prefix = `model.layers.${index}.block_sparse_moe`;
    const router = load(`${prefix}.gate`);
    const experts = Array.from({ length: count }, (_, expert) => {
      const part = (name: string) => load(`${prefix}.experts.${expert}.${name}`);
      return runGated({ gate: part("w1"), up: part("w3"), down: part("w2") });
    });
    return (y, x, rows) => {
      layers.linear(logits, x, router, rows);
      const own = logits.values.subarray(0, rows * count);
      onRoute?.(prefix, own);
      y.values.fill(0, 0, rows * width);
      for (const [expert, sent] of routeRows(own, count, numberOf(weights, "num_experts_per_tok")).entries()) {
        for (const [at, { row }] of sent.entries()) {
          taken.values.set(x.values.subarray(row * width, (row + 1) * width), at * width);
        }
        experts[expert]?.(made, taken, sent.length);
        for (const [at, { row, share }] of sent.entries()) {
          for (let i = 0; i < width; i++) {
            y.values[row * width + i] = (y.values[row * width + i] ?? 0) + share * (made.values[at * width + i] ?? 0);
          }
        }
      }
    };
  });
}

type Sent = { readonly row: number; readonly share: number };

/** By expert, the rows sent to it: those where it is among the `active` likeliest, and its share among them. */
export function routeRows(logits: Float32Array, experts: number, active: number): readonly (readonly Sent[])[] {
  const sent: Sent[][] = Array.from({ length: experts }, () => []);
  for (let row = 0; row * experts < logits.length; row++) {
    const own = Array.from(logits.subarray(row * experts, (row + 1) * experts), (logit, expert) => ({ logit, expert }));
    const chosen = own.sort((a, b) => b.logit - a.logit || a.expert - b.expert).slice(0, active);
    const odds = chosen.map(({ logit }) => Math.exp(logit - (chosen[0]?.logit ?? 0)));
    const total = odds.reduce((sum, value) => sum + value, 0);
    for (const [place, { expert }] of chosen.entries()) {
      sent[expert]?.push({ row, share: (odds[place] ?? 0) / total });
    }
  }
  return sent;
}
