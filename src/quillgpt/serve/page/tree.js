// The texts of one model: a tree, in which nothing is lost when one goes back.
//
// A node keeps the first `keep` tokens of its parent's text and adds its `own`. A node without a parent is a prompt.

import { textOf } from "./tokens.js";

export class Tree {
  roots = [];
  size = 0;

  add(parent, keep, own = []) {
    const node = { parent, keep, own, children: [], note: "" };
    (parent ? parent.children : this.roots).push(node);
    this.size += 1;
    return node;
  }

  /** Return all tokens of a node's text. */
  tokens(node) {
    return node.parent ? [...this.tokens(node.parent).slice(0, node.keep), ...node.own] : node.own;
  }

  /** Return the node to which a branch before token `keep` of a node belongs: the one that wrote what it keeps. */
  origin(node, keep) {
    while (node.parent && keep <= node.keep) node = node.parent;
    return node;
  }

  /** Yield [depth, node] from top to bottom. */
  *walk(nodes = this.roots, depth = 0) {
    for (const node of nodes) {
      yield [depth, node];
      yield* this.walk(node.children, depth + 1);
    }
  }

  /** Return all nodes as plain values, parents first. */
  pack() {
    const nodes = [...this.walk()].map(([, node]) => node);
    const number = new Map(nodes.map((node, i) => [node, i]));
    return nodes.map(({ parent, keep, own, note, prompt }) => ({ parent: number.get(parent), keep, own, note, prompt }));
  }

  /** Return the nodes of an empty tree after `pack` of another, in its order. */
  unpack(packed) {
    const nodes = [];
    for (const { parent, keep, own, ...more } of packed) {
      nodes.push(Object.assign(this.add(nodes[parent] ?? null, keep, own), more));
    }
    return nodes;
  }
}

const LONGEST = 48;

/** Return the first words of what a node adds. */
export function label(node) {
  const text = textOf(node.own).replace(/\s+/g, " ").trim();
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text || (node.parent ? "…" : "(empty)");
}
