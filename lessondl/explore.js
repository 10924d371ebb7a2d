// A traced net in a page: compute it, draw it, explain each of its numbers. Lesson `05_explore`.
//
// Three parts, one after the other:
//   1. the engine: computes every step of a trace from its inputs and weights, and says which numbers made which;
//      it needs no page and is tested with Node
//   2. the telling: one number in figures, in words and in Python
//   3. the page: pictures, mouse and keyboard, the kernel editor, the strip of pictures, the drawing pad
//
// The trace comes from Python as JSON, see `payload` in explore.py. Every number that an operation made has a cell of
// its own in one long array. A step that only moves numbers (a view, a slice, a transposition) has none: it names cells.
(() => {
'use strict'

// ---- 1. the engine ---------------------------------------------------------------------------------------------

const total = list => list.reduce((sum, v) => sum + v, 0)
const sizeOf = shape => shape.reduce((a, b) => a * b, 1)

const stridesOf = shape => {
  const strides = new Array(shape.length)
  let step = 1
  for (let d = shape.length - 1; d >= 0; d--) { strides[d] = step; step *= shape[d] }
  return strides
}

// flat position -> [i, j, ...], and back
const indexOf = (shape, flat) => {
  const index = new Array(shape.length)
  for (let d = shape.length - 1; d >= 0; d--) { index[d] = flat % shape[d]; flat = Math.floor(flat / shape[d]) }
  return index
}
const flatOf = (shape, index) => index.reduce((flat, i, d) => flat * shape[d] + i, 0)

// where the number of `shape` lies that stands at `index` of a result: dimensions of 1, and missing ones, are repeated
const broadcast = (shape, index) => {
  const skip = index.length - shape.length
  return shape.reduce((flat, n, d) => flat * n + (n === 1 ? 0 : index[d + skip]), 0)
}

const range = (from, to, by = 1) => { const out = []; for (let i = from; i < to; i += by) out.push(i); return out }
const wide = (value, n) => value.length === n ? value : new Array(n).fill(value[0])
const numbersIn = base64 => {
  const text = atob(base64), bytes = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i)
  return bytes.buffer
}

// -- convolution and pooling: in one, two or three dimensions, counted as three

// the places of one window along one dimension that lie inside, as [place in the kernel, place in the input]
const places = (i, n, kernel, stride, padding, dilation) => {
  const out = []
  for (let k = 0; k < kernel; k++) {
    const at = i * stride - padding + k * dilation
    if (at >= 0 && at < n) out.push([k, at])
  }
  return out
}

const three = (list, fill) => [...new Array(3 - list.length).fill(fill), ...list]

const convolutionOf = s => {
  const x = s.in.input, w = s.in.weight, n = w.shape.length - 2
  const a = name => wide(s.args[name], n)
  return {
    groups: s.args.groups, kernel: three(w.shape.slice(2), 1), input: three(x.shape.slice(2), 1),
    output: three(s.shape.slice(2), 1), stride: three(a('stride'), 1), padding: three(a('padding'), 0),
    dilation: three(a('dilation'), 1), filters: w.shape[0], depth: w.shape[1], channels: x.shape[1],
  }
}

// one weight at a time over a whole row of outputs: the quickest order for plain JavaScript
const convolve = (s, out) => {
  const { groups, kernel, input, output, stride, padding, dilation, filters, depth, channels } = convolutionOf(s)
  const x = s.in.input.values, w = s.in.weight.values, bias = s.in.bias && s.in.bias.values
  const [K0, K1, K2] = kernel, [X0, X1, X2] = input, [Y0, Y1, Y2] = output
  const plane = Y0 * Y1 * Y2, sums = new Float64Array(plane)
  // for a place in the kernel: the outputs whose window has it inside the picture
  const inside = (k, d) => {
    const shift = k * dilation[d] - padding[d]
    return [Math.max(0, Math.ceil(-shift / stride[d])), Math.min(output[d], Math.floor((input[d] - 1 - shift) / stride[d]) + 1), shift]
  }
  for (let n = 0; n < s.shape[0]; n++) for (let f = 0; f < filters; f++) {
    sums.fill(bias ? bias[f] : 0)
    const first = Math.floor(f / (filters / groups)) * depth
    for (let c = 0; c < depth; c++) {
      const from = (n * channels + first + c) * X0 * X1 * X2
      for (let a = 0; a < K0; a++) {
        const [a0, a1, sa] = inside(a, 0)
        for (let b = 0; b < K1; b++) {
          const [b0, b1, sb] = inside(b, 1)
          for (let e = 0; e < K2; e++) {
            const weight = w[(((f * depth + c) * K0 + a) * K1 + b) * K2 + e]
            if (weight === 0) continue
            const [e0, e1, se] = inside(e, 2), across = stride[2]
            for (let i = a0; i < a1; i++) for (let j = b0; j < b1; j++) {
              let at = from + ((i * stride[0] + sa) * X1 + j * stride[1] + sb) * X2 + e0 * across + se
              for (let to = (i * Y1 + j) * Y2 + e0, end = to + e1 - e0; to < end; to++, at += across) sums[to] += weight * x[at]
            }
          }
        }
      }
    }
    out.set(sums, (n * filters + f) * plane)
  }
}

const convolutionWindow = (s, index) => {
  const { groups, kernel, input, stride, padding, dilation, filters, depth, channels } = convolutionOf(s)
  const [n, f, ...rest] = index, out = three(rest, 0)
  const [A, B, E] = [0, 1, 2].map(d => places(out[d], input[d], kernel[d], stride[d], padding[d], dilation[d]))
  const first = Math.floor(f / (filters / groups)) * depth, xs = [], ws = []
  for (let c = 0; c < depth; c++) for (const [a, i] of A) for (const [b, j] of B) for (const [e, k] of E) {
    xs.push((((n * channels + first + c) * input[0] + i) * input[1] + j) * input[2] + k)
    ws.push((((f * depth + c) * kernel[0] + a) * kernel[1] + b) * kernel[2] + e)
  }
  return { input: xs, weight: ws, bias: [f] }
}

// the rows and columns of a pooling window: [[first, end, step], [first, end, step]]
const pooled = (s, i, j) => {
  const [H, W] = s.in.input.shape.slice(-2), [h, w] = s.shape.slice(-2)
  if (s.op.startsWith('adaptive'))
    return [[i, H, h], [j, W, w]].map(([k, n, m]) => [Math.floor(k * n / m), Math.ceil((k + 1) * n / m), 1])
  const a = name => wide(s.args[name] && s.args[name].length ? s.args[name] : name === 'stride' ? s.args.kernel_size : [name === 'dilation' ? 1 : 0], 2)
  const size = a('kernel_size'), stride = a('stride'), padding = a('padding'), dilation = a('dilation')
  return [[i, H], [j, W]].map(([k, n], d) => {
    const inside = places(k, n, size[d], stride[d], padding[d], dilation[d])
    return [inside[0][1], inside[inside.length - 1][1] + 1, dilation[d]]
  })
}

// by what an average is divided: zeros of the padding count, unless the model says otherwise
const dividedBy = (s, i, j) => {
  const [[r0, r1], [q0, q1]] = pooled(s, i, j), a = s.args
  if (a.divisor_override) return a.divisor_override
  if (s.op.startsWith('adaptive') || a.count_include_pad === false) return (r1 - r0) * (q1 - q0)
  const size = wide(a.kernel_size, 2), stride = wide(a.stride && a.stride.length ? a.stride : size, 2), padding = wide(a.padding || [0], 2)
  const [H, W] = s.in.input.shape.slice(-2)
  return [[i, H], [j, W]].reduce((product, [k, n], d) => {
    const from = k * stride[d] - padding[d]
    return product * (Math.min(from + size[d], n + padding[d]) - from)
  }, 1)
}

const pool = largest => (s, out) => {
  const x = s.in.input, [H, W] = x.shape.slice(-2), [h, w] = s.shape.slice(-2)
  for (let i = 0; i < h; i++) for (let j = 0; j < w; j++) {
    const [[r0, r1, rd], [q0, q1, qd]] = pooled(s, i, j), n = largest || dividedBy(s, i, j)
    for (let c = 0; c < out.length / (h * w); c++) {
      let all = largest ? -Infinity : 0
      for (let r = r0; r < r1; r += rd) for (let q = q0; q < q1; q += qd) {
        const v = x.values[(c * H + r) * W + q]
        if (largest) { if (v > all || Number.isNaN(v)) all = v } else all += v
      }
      out[(c * h + i) * w + j] = largest ? all : all / n
    }
  }
}

const poolWindow = (s, index) => {
  const [H, W] = s.in.input.shape.slice(-2), lead = index.slice(0, -2), [i, j] = index.slice(-2)
  const c = flatOf(s.shape.slice(0, -2), lead), [rows, columns] = pooled(s, i, j)
  return { input: range(...rows).flatMap(r => range(...columns).map(q => (c * H + r) * W + q)) }
}

// -- sums of products

const linear = (s, out) => {
  const x = s.in.input.values, w = s.in.weight.values, bias = s.in.bias && s.in.bias.values
  const [F, n] = s.in.weight.shape.length > 1 ? s.in.weight.shape : [1, s.in.weight.shape[0]]
  for (let row = 0; row < out.length / F; row++) for (let f = 0; f < F; f++) {
    let sum = bias ? bias[f] : 0
    for (let k = 0, a = row * n, b = f * n; k < n; k++) sum += x[a + k] * w[b + k]
    out[row * F + f] = sum
  }
}

const linearWindow = (s, index) => {
  const n = s.in.input.shape[s.in.input.shape.length - 1]
  const row = flatOf(s.shape.slice(0, -1), index.slice(0, -1)), f = index[index.length - 1]
  return { input: range(row * n, row * n + n), weight: range(f * n, f * n + n), bias: [f] }
}

const matmul = (left, right, plus) => ({
  forward: (s, out) => {
    const a = s.in[left], b = s.in[right], n = a.shape[a.shape.length - 1]
    const [I, J] = s.shape.slice(-2), alpha = s.args.alpha ?? 1, beta = s.args.beta ?? 1
    for (let at = 0; at < out.length; at++) {
      const j = at % J, i = Math.floor(at / J) % I, lead = Math.floor(at / (I * J))
      let sum = 0
      for (let k = 0; k < n; k++) sum += a.values[(lead * I + i) * n + k] * b.values[(lead * n + k) * J + j]
      out[at] = plus ? alpha * sum + beta * s.in[plus].values[broadcast(s.in[plus].shape, indexOf(s.shape, at))] : sum
    }
  },
  window: (s, index) => {
    const n = s.in[left].shape[s.in[left].shape.length - 1], [I, J] = s.shape.slice(-2), [i, j] = index.slice(-2)
    const lead = flatOf(s.shape.slice(0, -2), index.slice(0, -2))
    const found = { [left]: range((lead * I + i) * n, (lead * I + i + 1) * n), [right]: range(0, n).map(k => (lead * n + k) * J + j) }
    if (plus) found[plus] = [broadcast(s.in[plus].shape, index)]
    return found
  },
})

// -- lines: what is computed along some dimensions

const dimensions = s => {
  const n = s.in.input.shape.length, { dim } = s.args
  if (dim === undefined || dim === null || dim.length === 0) return range(0, n)
  return [].concat(dim).map(d => (d + n) % n)
}

// the flat positions of all numbers that have the same place as `index` in every dimension but `dims`
const line = (shape, dims, index) => {
  const strides = stridesOf(shape)
  let found = [index.reduce((flat, i, d) => flat + (dims.includes(d) ? 0 : i * strides[d]), 0)]
  for (const d of dims.slice().sort((a, b) => a - b)) found = found.flatMap(at => range(0, shape[d]).map(k => at + k * strides[d]))
  return found
}

const softmax = log => ({
  forward: (s, out) => {
    const { shape, values } = s.in.input, [d] = dimensions(s), n = shape[d], by = stridesOf(shape)[d]
    for (let first = 0; first < out.length; first++) if (Math.floor(first / by) % n === 0) {
      let largest = -Infinity, sum = 0
      for (let k = 0; k < n; k++) largest = Math.max(largest, values[first + k * by])
      for (let k = 0; k < n; k++) sum += Math.exp(values[first + k * by] - largest)
      for (let k = 0; k < n; k++) {
        const x = values[first + k * by] - largest
        out[first + k * by] = log ? x - Math.log(sum) : Math.exp(x) / sum
      }
    }
  },
  window: (s, index) => ({ input: line(s.in.input.shape, dimensions(s), index) }),
})

// `f` makes one number of a list
const reduction = f => {
  // where a number of the result stands in the input, with 0 in the dimensions that are gone
  const before = (s, index) => {
    const dims = dimensions(s), kept = index.slice()
    return s.in.input.shape.map((_, d) => s.args.keepdim ? index[d] : dims.includes(d) ? 0 : kept.shift())
  }
  const window = (s, index) => ({ input: line(s.in.input.shape, dimensions(s), before(s, index)) })
  return {
    window,
    forward: (s, out) => {
      for (let at = 0; at < out.length; at++) {
        const w = window(s, indexOf(s.shape, at)).input
        out[at] = f(w.map(k => s.in.input.values[k]), s.args)
      }
    },
  }
}

const batchNorm = {
  forward: (s, out) => {
    const { input, weight, bias, running_mean, running_var } = s.in, C = s.shape[1], plane = sizeOf(s.shape.slice(2))
    for (let c = 0; c < C; c++) {
      const scale = (weight ? weight.values[c] : 1) / Math.sqrt(running_var.values[c] + s.args.eps)
      const mean = running_mean.values[c], shift = bias ? bias.values[c] : 0
      for (let n = 0; n < s.shape[0]; n++) for (let k = (n * C + c) * plane, end = k + plane; k < end; k++)
        out[k] = (input.values[k] - mean) * scale + shift
    }
  },
  window: (s, index) => {
    const found = { input: [flatOf(s.shape, index)] }
    for (const role of ['weight', 'bias', 'running_mean', 'running_var']) found[role] = [index[1]]
    return found
  },
}

// mean and spread of the numbers that a layer norm takes together
const meanAndVariance = numbers => {
  const mean = numbers.reduce((a, b) => a + b, 0) / numbers.length
  return [mean, numbers.reduce((a, b) => a + (b - mean) ** 2, 0) / numbers.length]
}

const layerNorm = {
  forward: (s, out) => {
    const n = sizeOf(s.args.normalized_shape), { input, weight, bias } = s.in
    for (let first = 0; first < out.length; first += n) {
      const [mean, variance] = meanAndVariance(input.values.subarray(first, first + n)), scale = 1 / Math.sqrt(variance + s.args.eps)
      for (let k = 0; k < n; k++)
        out[first + k] = (input.values[first + k] - mean) * scale * (weight ? weight.values[k] : 1) + (bias ? bias.values[k] : 0)
    }
  },
  window: (s, index) => {
    const n = sizeOf(s.args.normalized_shape), at = flatOf(s.shape, index), first = at - at % n
    return { input: range(first, first + n), weight: [at % n], bias: [at % n] }
  },
}

const embedding = {
  forward: (s, out) => {
    const { weight, indices } = s.in, n = weight.shape[1]
    for (let k = 0; k < out.length; k++) out[k] = weight.values[indices.values[Math.floor(k / n)] * n + k % n]
  },
  window: (s, index) => {
    const n = s.in.weight.shape[1], at = flatOf(s.in.indices.shape, index.slice(0, -1))
    return { weight: [s.in.indices.values[at] * n + index[index.length - 1]], indices: [at] }
  },
}

// -- number by number: what is given to `f` are the operands named, tensors or plain numbers

// the error function: a series near 0 (Abramowitz and Stegun 7.1.6), a continued fraction farther out (7.1.14)
const erf = x => {
  const z = Math.abs(x)
  if (z > 6) return Math.sign(x)
  if (z < 2.5) {
    let term = z, sum = z
    for (let n = 1; n < 80; n++) { term *= 2 * z * z / (2 * n + 1); sum += term }
    return Math.sign(x) * 2 / Math.sqrt(Math.PI) * Math.exp(-z * z) * sum
  }
  let fraction = z
  for (let k = 60; k > 0; k--) fraction = z + k / 2 / fraction
  return Math.sign(x) * (1 - Math.exp(-z * z) / Math.sqrt(Math.PI) / fraction)
}
const gelu = (x, how) => how === 'tanh' ? x / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
  : x / 2 * (1 + erf(x / Math.SQRT2))
const divide = (a, b, how) => how === 'floor' ? Math.floor(a / b) : how === 'trunc' ? Math.trunc(a / b) : a / b
const least = (x, min) => min === undefined ? x : x < min ? min : x
const most = (x, max) => max === undefined ? x : x > max ? max : x

const pointwise = (f, ...roles) => ({
  roles,
  forward: (s, out) => {
    const given = roles.map(role => s.in[role] ?? s.args[role])
    const whole = given.map(g => g && g.values && g.values.length === out.length)
    const lone = given.map(g => !(g && g.values))
    for (let k = 0; k < out.length; k++) {
      let index
      out[k] = f(...given.map((g, i) => lone[i] ? g : g.values[whole[i] ? k : broadcast(g.shape, index ??= indexOf(s.shape, k))]))
    }
  },
  window: (s, index) => Object.fromEntries(Object.entries(s.in).map(([role, o]) => [role, [broadcast(o.shape, index)]])),
})
// the common ones with one operand, or two of the same shape: no lists for every number
const one = f => ({ ...pointwise(f, 'input'), forward: (s, out) => { const x = s.in.input.values; for (let k = 0; k < out.length; k++) out[k] = f(x[k]) } })
const two = (f, ...more) => {
  const slow = pointwise(f, 'input', 'other', ...more)
  return { ...slow, forward: (s, out) => {
    const a = s.in.input, b = s.in.other
    if (!a || !b || a.values.length !== out.length || b.values.length !== out.length) return slow.forward(s, out)
    const last = more.length ? s.args[more[0]] : undefined
    for (let k = 0; k < out.length; k++) out[k] = f(a.values[k], b.values[k], last)
  } }
}
const truth = f => pointwise((a, b) => f(a, b) ? 1 : 0, 'input', 'other')
const sigmoid = x => 1 / (1 + Math.exp(-x))
const largest = { forward: pool(true), window: poolWindow }, average = { forward: pool(false), window: poolWindow }
const bigger = (a, b) => Number.isNaN(b) ? b : a < b ? b : a, smaller = (a, b) => Number.isNaN(b) ? b : a > b ? b : a
const largestOf = reduction(list => list.reduce(bigger)), smallestOf = reduction(list => list.reduce(smaller))

// name of an operation -> how it is computed, and which numbers make one number
const operations = {
  convolution: { forward: convolve, window: convolutionWindow },
  linear: { forward: linear, window: linearWindow },
  addmm: matmul('mat1', 'mat2', 'input'), mm: matmul('input', 'mat2'), bmm: matmul('input', 'mat2'),
  embedding, batch_norm: batchNorm, layer_norm: layerNorm,
  max_pool2d: largest, adaptive_max_pool2d: largest, avg_pool2d: average, adaptive_avg_pool2d: average,
  softmax: softmax(false), log_softmax: softmax(true),
  sum: reduction(total), mean: reduction(list => total(list) / list.length), any: reduction(list => list.some(v => v !== 0) ? 1 : 0),
  var: reduction((list, { correction = 1 }) => meanAndVariance(list)[1] * list.length / (list.length - correction)),
  amax: largestOf, amin: smallestOf, max: largestOf, min: smallestOf,
  add: two((a, b, alpha = 1) => a + alpha * b, 'alpha'), sub: two((a, b, alpha = 1) => a - alpha * b, 'alpha'),
  mul: two((a, b) => a * b), div: two(divide, 'rounding_mode'), pow: pointwise(Math.pow, 'input', 'exponent'),
  maximum: two(bigger), minimum: two(smaller),
  gt: truth((a, b) => a > b), ge: truth((a, b) => a >= b), lt: truth((a, b) => a < b), le: truth((a, b) => a <= b),
  eq: truth((a, b) => a === b), ne: truth((a, b) => a !== b),
  where: pointwise((c, a, b) => c ? a : b, 'condition', 'input', 'other'),
  relu: one(x => x < 0 ? 0 : x), sigmoid: one(sigmoid), tanh: one(Math.tanh), neg: one(x => -x), abs: one(Math.abs), sign: one(Math.sign), trunc: one(Math.trunc),
  logical_not: one(x => x === 0 ? 1 : 0),
  exp: one(Math.exp), expm1: one(Math.expm1), log: one(Math.log), log1p: one(Math.log1p), sqrt: one(Math.sqrt),
  rsqrt: one(x => 1 / Math.sqrt(x)), reciprocal: one(x => 1 / x), sin: one(Math.sin), cos: one(Math.cos), erf: one(erf),
  gelu: pointwise(gelu, 'input', 'approximate'),
  leaky_relu: pointwise((x, slope = 0.01) => x > 0 ? x : slope * x, 'input', 'negative_slope'),
  elu: pointwise((x, alpha = 1, scale = 1, inner = 1) => x > 0 ? scale * x : scale * alpha * Math.expm1(inner * x), 'input', 'alpha', 'scale', 'input_scale'),
  clamp: pointwise((x, min, max) => most(least(x, min), max), 'input', 'min', 'max'),
  clamp_min: pointwise(least, 'input', 'min'), clamp_max: pointwise(most, 'input', 'max'),
  hardtanh: pointwise((x, min = -1, max = 1) => most(least(x, min), max), 'input', 'min_val', 'max_val'),
}

// The net. `tensors` are weights, constants, inputs and steps in an order in which each comes after its operands:
//   { name, op, shape, args, in: {role: tensor}, moves, at (its first cell) or map (its cells) and fill, values, data, left }
// `data` are numbers that came with the page: of weights, constants and inputs, and of steps that only Python can compute.
// `left` has a weight that is too large to come with the page, and the steps that need it: then it says how many numbers.
class Net {
  constructor(payload) {
    this.cells = new Float32Array(payload.cells)
    this.tensors = []
    for (const t of payload.tensors) {
      const s = { args: {}, ...t, number: this.tensors.length, size: sizeOf(t.shape), in: {} }
      for (const [role, number] of Object.entries(t.operands || {})) s.in[role] = this.tensors[number]
      if (t.map !== undefined) { s.map = new Int32Array(numbersIn(t.map)); s.fill = t.fill && new Float32Array(numbersIn(t.fill)); s.values = new Float32Array(s.size) }
      else s.values = this.cells.subarray(t.at, t.at + s.size)     // a view of cells that lie side by side needs no copy
      if (t.data !== undefined) { s.data = new Float32Array(numbersIn(t.data)); s.values.set(s.data) }
      s.computed = !s.moves && s.data === undefined && !s.left
      this.tensors.push(s)
    }
    this.steps = this.tensors.filter(s => !s.moves && !['weight', 'constant', 'input'].includes(s.op))
    this.inputs = this.tensors.filter(s => s.op === 'input')
    this.outputs = payload.outputs.map(i => this.tensors[i])
    this.owners = this.tensors.filter(s => !s.moves).sort((a, b) => a.at - b.at)   // of the cells
    this.run()
  }

  // compute every step, or those that depend on the tensors in `changed`; returns the set of those that were computed
  run(changed) {
    const dirty = new Set(changed)
    for (const s of this.tensors) {
      const operands = Object.values(s.in)
      if (changed && !operands.some(o => dirty.has(o))) continue
      if (changed) dirty.add(s)
      if (s.map) { for (let k = 0, n = 0; k < s.size; k++) s.values[k] = s.map[k] < 0 ? s.fill[n++ % s.fill.length] : this.cells[s.map[k]] }
      else if (s.computed) operations[s.op].forward(s, s.values)
    }
    return dirty
  }

  // the cell in which number `k` of a tensor stands; -1 for a constant that was filled in
  cell(s, k) { return s.map ? s.map[k] : s.at + k }

  // the tensor that a cell belongs to, and the flat position there
  owner(cell) {
    let low = 0, high = this.owners.length - 1
    while (low < high) { const mid = (low + high + 1) >> 1; if (this.owners[mid].at <= cell) low = mid; else high = mid - 1 }
    return [this.owners[low], cell - this.owners[low].at]
  }

  // which numbers of each operand make number `flat` of a step: flat positions, by operand
  window(s, flat) {
    const entry = operations[s.op]
    if (!entry) return {}
    const found = entry.window(s, indexOf(s.shape, flat))
    return Object.fromEntries(Object.entries(found).filter(([role]) => s.in[role]))
  }
}

// -- the spreadsheet: where a number stands in the workbook that `to_spreadsheet` writes, and its formula

const down = 2 ** 15, sheetSize = 2 ** 36       // a place is one number, as in spreadsheet.py: sheet, row, column
const letters = c => (c >= 26 ? letters(Math.floor(c / 26) - 1) : '') + String.fromCharCode(65 + c % 26)

// a number as a formula writes it
const written = v => {
  let text = String(Math.abs(v))
  if (v !== 0 && (Math.abs(v) < 1e-4 || Math.abs(v) >= 1e15)) {
    const [digits, power] = Math.abs(v).toExponential().split('e')
    text = `${digits}E${power[0]}${power.slice(1).padStart(2, '0')}`
  }
  return v < 0 ? `(-${text})` : text
}

// cut lists of places into stretches [first, last] that fill a rectangle of the sheet in each of them
const rectangles = (...lists) => {
  const unit = range(1, lists[0].length).map(i => {
    const d = lists[0][i] - lists[0][i - 1]
    return (d === 1 || d === down) && lists.every(p => p[i] - p[i - 1] === d) ? d : 0
  })
  const out = []
  let last
  for (let i = 0; i <= unit.length;) {
    let j = i
    while (unit[j] && unit[j] === unit[i]) j++
    const beside = last && j > i && j - i === last[1] - last[0] && unit[i] === unit[last[0]] && lists.every(p => p[i] - p[last[0]] === down + 1 - unit[i])
    if (beside) out[out.length - 1][1] = j; else out.push([i, j])
    last = [i, j]; i = j + 1
  }
  return out
}

// `blocks`: of a tensor, by its number, { sheet, row, col, dims: [[how many, down, across], ...], stem, groups, pieces, two } (the latter
// say how its ranges are named), `exps` the same of the exps that softmax gets; `rules`: of a step the formula, with marks for cells:
// {role} one cell, {$role} a fixed one, {*role} all of the window
class Workbook {
  constructor(net, { sheets, blocks, exps, rules }) { Object.assign(this, { net, sheets, blocks, exps, rules }) }

  place({ sheet, row, col, dims }, k) {
    for (let d = dims.length - 1; d >= 0; d--) { const [n, below, across] = dims[d]; row += k % n * below; col += k % n * across; k = Math.floor(k / n) }
    return sheet * sheetSize + row * down + col
  }

  // number `k` of a tensor: { place, block, at }, or { place: NaN, value } if it is a constant without a cell
  spot(o, k) {
    const cell = this.net.cell(o, k)
    if (cell < 0) return { place: NaN, value: Number(o.values[k].toPrecision(7)) }
    const [owner, at] = this.net.owner(cell), block = this.blocks[owner.number]
    return { place: this.place(block, at), block, at }
  }

  ref(spot, here, fixed) {
    if (Number.isNaN(spot.place)) return written(spot.value)
    const sheet = Math.floor(spot.place / sheetSize), row = Math.floor(spot.place % sheetSize / down) + 1, column = letters(spot.place % down), lock = fixed ? '$' : ''
    return `${sheet === here ? '' : `'${this.sheets[sheet]}'!`}${lock}${column}${lock}${row}`
  }

  range(first, last, here, fixed) {
    if (first === last || first.place === last.place) return this.ref(first, here, fixed)
    const { block, at } = first, size = block.groups && sizeOf(block.dims.map(d => d[0])) / block.groups
    if (size && last.block === block && at % size === 0 && last.at === at + size - 1) {
      const i = at / size
      return block.pieces ? `${block.stem}_${Math.floor(i / block.pieces)}${block.two ? `_${i % block.pieces}` : ''}` : block.stem
    }
    return `${this.ref(first, here, fixed)}:${this.ref(last, Math.floor(last.place / sheetSize), fixed)}`
  }

  list(spots, here) { return rectangles(spots.map(s => s.place)).map(([a, b]) => this.range(spots[a], spots[b], here)).join(',') }

  // sums of products, rectangle by rectangle; zeros that were filled in are left out
  dots(left, right, here) {
    const kept = range(0, left.length).filter(k => left[k].value !== 0)
    if (!kept.length) return '0'
    const x = kept.map(k => left[k]), w = kept.map(k => right[k]), places = [x, w].map(l => l.map(s => s.place)), n = x.length - 1
    const only = (p, d) => n > 0 && p.every((v, i) => i === 0 || v - p[i - 1] === d)
    const a = (l, [i, j], fixed) => this.range(l[i], l[j], here, fixed)
    if (only(places[0], 1) && only(places[1], down)) return `SUMPRODUCT(MMULT(${a(x, [0, n])},${a(w, [0, n], true)}))`
    if (only(places[0], down) && only(places[1], 1)) return `SUMPRODUCT(MMULT(${a(w, [0, n], true)},${a(x, [0, n])}))`
    return rectangles(...places).map(c => c[0] === c[1] ? `${a(x, c)}*${a(w, c, true)}` : `SUMPRODUCT(${a(x, c)},${a(w, c, true)})`).join('+')
  }

  // [the cell, its formula], as ["'model'!B5", '=MAX(0,B3)']; of an input the cell alone
  cell(s, flat) {
    const block = this.blocks[s.number]
    if (!block) return []
    const here = block.sheet, at = this.ref({ place: this.place(block, flat) }, -1)
    const text = s.op === 'input' ? undefined : this.formula(s, flat, here)
    return text === undefined ? [at] : [at, `=${text}`]
  }

  formula(s, flat, here) {
    const w = this.net.window(s, flat), spots = role => w[role].map(k => this.spot(s.in[role], k)), one = (role, fixed) => this.ref(spots(role)[0], here, fixed)
    const scaled = (name, text) => (s.args[name] ?? 1) === 1 ? text : `${written(s.args[name])}*${text}`
    if (s.op === 'convolution' || s.op === 'linear') return (w.bias ? `${one('bias', true)}+` : '') + this.dots(spots('input'), spots('weight'), here)
    if (s.op === 'mm' || s.op === 'bmm') return this.dots(spots('input'), spots('mat2'), here)
    if (s.op === 'addmm') {
      const dots = this.dots(spots('mat1'), spots('mat2'), here)
      return `${scaled('beta', one('input'))}+${(s.args.alpha ?? 1) === 1 ? dots : scaled('alpha', `(${dots})`)}`
    }
    if (s.op === 'embedding') {
      const table = s.in.weight, block = this.blocks[table.number], r = one('indices'), j = flat % table.shape[1] + 1
      const way = block && block.dims.length === 2 ? block.dims.map(d => d.slice(1).join()).join(' ') : ''
      if (way !== '1,0 0,1' && way !== '0,1 1,0') return undefined      // the table lies here and there
      const area = this.range(this.spot(table, 0), this.spot(table, table.size - 1), here, true)
      return way === '1,0 0,1' ? `INDEX(${area},${r}+1,${j})` : `INDEX(${area},${j},${r}+1)`
    }
    let rule = this.rules[s.number]
    if (s.op === 'avg_pool2d') { const by = dividedBy(s, ...indexOf(s.shape, flat).slice(-2)); if (by !== w.input.length) rule = `SUM({*input})/${by}` }
    return rule?.replace(/\{([$*]?)(\w+)\}/g, (_, kind, role) => {
      const exp = role === 'exp' && this.exps[s.number], cells = exp ? w.input.map(k => ({ place: this.place(exp, k), block: exp, at: k })) : spots(role)
      if (kind === '*') return this.list(cells, here)
      return this.ref(cells.length === 1 ? cells[0] : exp ? { place: this.place(exp, flat) } : this.spot(s.in[role], flat), here, kind === '$')
    })
  }
}

// ---- 2. the telling --------------------------------------------------------------------------------------------

// a number for people: four digits that count
const show = v => {
  if (Number.isNaN(v)) return 'NaN'
  if (!Number.isFinite(v)) return v > 0 ? '∞' : '−∞'
  const size = Math.abs(v)
  const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? v.toExponential(2) : Number.isInteger(v) ? String(v) : v.toFixed(size < 10 ? 3 : size < 1000 ? 2 : 1)
  return text.replace('-', '−')
}
const brief = v => Number.isFinite(v) && Math.abs(v) < 100 ? v.toFixed(2).replace('-', '−') : show(v)      // where room is short
const count = n => n.toLocaleString('en')
const many = (n, what) => `${count(n)} ${what}${n === 1 ? '' : 's'}`

// what an operation is called
const titles = {
  convolution: 'convolution', linear: 'dense layer', addmm: 'matrix product and sum', mm: 'matrix product', bmm: 'matrix products',
  embedding: 'embedding', batch_norm: 'batch normalisation', layer_norm: 'layer normalisation', max_pool2d: 'max pooling',
  adaptive_max_pool2d: 'max pooling to a given size', avg_pool2d: 'average pooling', adaptive_avg_pool2d: 'average pooling to a given size',
  softmax: 'softmax', log_softmax: 'log-softmax', relu: 'ReLU', add: 'sum', sub: 'difference', mul: 'product', div: 'quotient',
  amax: 'largest', amin: 'smallest', max: 'largest', min: 'smallest', sum: 'sum of many', mean: 'mean', input: 'input',
}

// where a number stands, in words; dimensions of length 1 are left out
const dimensionNames = { 4: ['picture', 'channel', 'row', 'column'], 2: ['row', 'number'], 1: ['number'] }
const place = (shape, index) => {
  const names = dimensionNames[shape.length]
  if (!names) return shape.length ? `position [${index.join(', ')}]` : 'the number'
  const said = index.map((i, d) => shape[d] === 1 ? '' : `${names[d]} ${i}`).filter(Boolean)
  return said.join(', ') || `${names[names.length - 1]} ${index[index.length - 1]}`
}

// Python: t is the trace
const quoted = name => `'${name.replace(/\\/g, '\\\\').replace(/'/g, "\\'").replace(/\n/g, '\\n')}'`
const python = o => `t[${quoted(o.name)}].value`
const item = (o, at) => python(o) + (o.shape.length ? `[${[].concat(at).join(', ')}]` : '')
const number = (o, flat) => item(o, indexOf(o.shape, flat))
// a part of one dimension: all of it, or first:end:step
const slice = (at, n) => {
  if (!at.length) return '0:0'      // the whole window lies in the padding
  const step = at.length > 1 ? at[1] - at[0] : 1, end = at[at.length - 1] + 1
  return at.length === n ? ':' : `${at[0]}:${end}${step > 1 ? `:${step}` : ''}`
}
const literal = v => v === undefined || v === null ? 'None' : v === true ? 'True' : v === false ? 'False' : typeof v === 'string' ? (/^-?inf$|^nan$/.test(v) ? `float('${v}')` : quoted(v)) : String(v)

const products = (a, b) => a.map((v, k) => v * b[k])

// sum of products: `groups` are what is multiplied, channel by channel or in one group; what does not fit is summed up
const sumOfProducts = (s, w, left, right, groups, plus) => {
  const a = w[left].map(k => s.in[left].values[k]), b = w[right].map(k => s.in[right].values[k]), n = a.length / groups.count
  const parts = range(0, groups.count).map(g => {
    const from = g * n, x = a.slice(from, from + n), y = b.slice(from, from + n)
    return { label: groups.label(g), rows: groups.rows, columns: groups.columns, a: x, b: y, sum: total(products(x, y)) }
  })
  const shift = plus && w[plus] ? s.in[plus].values[w[plus][0]] * (s.op === 'addmm' ? s.args.beta ?? 1 : 1) : undefined
  return { parts, sum: total(parts.map(p => p.sum)) * (s.args.alpha ?? 1), shift }
}

const tellConvolution = (s, index, w) => {
  const { groups, kernel, input, stride, padding, dilation, filters, depth } = convolutionOf(s), [n, f, ...rest] = index, out = three(rest, 0)
  const dims = rest.length, last = a => a.slice(3 - dims), P = last([0, 1, 2].map(d => places(out[d], input[d], kernel[d], stride[d], padding[d], dilation[d])))
  const first = Math.floor(f / (filters / groups)) * depth, { in: o } = s
  const channels = first === 0 && depth === o.input.shape[1] ? ':' : `${first}:${first + depth}`
  const x = `${python(o.input)}[${[n, channels, ...P.map((at, d) => slice(at.map(([, i]) => i), last(input)[d]))].join(', ')}]`
  const k = `${python(o.weight)}[${[f, ':', ...P.map((at, d) => slice(at.map(([j]) => j), last(kernel)[d]))].join(', ')}]`
  const found = sumOfProducts(s, w, 'input', 'weight', {
    count: depth, label: c => `channel ${first + c}`, rows: dims > 1 ? P[dims - 2].length : 1, columns: P[dims - 1].length }, 'bias')
  const cut = w.input.length < depth * sizeOf(kernel)
  return { ...found,
    words: `The window has ${many(w.input.length, 'number')}${depth > 1 ? ` in ${depth} channels` : ''}. Each is multiplied by the number that kernel ${f} has at its place, and all products are added${w.bias ? ', then the bias of this kernel' : ''}.` +
      (cut ? ' A part of the window lies outside the picture, where everything is 0.' : ''),
    python: `(${x} * ${k}).sum()` + (o.bias ? ` + ${item(o.bias, f)}` : '') }
}

const tellProducts = (left, right, plus) => (s, index, w) => {
  const { in: o } = s, j = index[index.length - 1], row = index.slice(0, -1)
  const [a, b] = s.op === 'linear'
    ? [row.length ? item(o.input, row) : python(o.input), o.weight.shape.length > 1 ? item(o.weight, j) : python(o.weight)]
    : [item(o[left], row), item(o[right], [...index.slice(0, -2), ':', j])]
  const scaled = (name, text) => (s.args[name] ?? 1) === 1 ? text : `${text} * ${s.args[name]}`
  return { ...sumOfProducts(s, w, left, right, { count: 1, label: () => '', rows: 1, columns: w[left].length }, plus),
    words: `Each of ${many(w[left].length, 'number')} is multiplied by its own weight, and all products are added${w[plus] ? ', then the bias' : ''}.`,
    python: scaled('alpha', `(${a} * ${b}).sum()`) + (w[plus] ? ` + ${scaled('beta', number(o[plus], w[plus][0]))}` : '') }
}

const tellPool = (s, index, w) => {
  const lead = index.slice(0, -2), [i, j] = index.slice(-2), [[r0, r1, rd], [q0, q1, qd]] = pooled(s, i, j), [H, W] = s.in.input.shape.slice(-2)
  const window = item(s.in.input, [...lead, slice(range(r0, r1, rd), H), slice(range(q0, q1, qd), W)])
  const grid = { rows: range(r0, r1, rd).length, columns: range(q0, q1, qd).length, a: w.input.map(k => s.in.input.values[k]) }
  if (s.op.includes('max')) {
    let winner = 0
    grid.a.forEach((v, k) => { if (v > grid.a[winner] || Number.isNaN(v) && !Number.isNaN(grid.a[winner])) winner = k })
    return { grid: { ...grid, winner }, winner: w.input[winner], words: `The largest of the ${many(w.input.length, 'number')} in the window. The others have no say.`, python: `${window}.max()` }
  }
  const n = dividedBy(s, i, j)
  return { grid, words: `The ${many(w.input.length, 'number')} in the window, added and divided by ${n}.`, python: `${window}.sum() / ${n}`, lines: [`sum ${show(total(grid.a))} / ${n}`] }
}

const tellBatchNorm = (s, index, w) => {
  const { in: o } = s, v = role => o[role] && o[role].values[w[role][0]], { eps } = s.args, p = role => number(o[role], w[role][0])
  return {
    words: 'The number, less the mean of its channel, divided by the spread (the root of the variance), then times the multiplier of the channel, plus its adder. Mean and variance are those that training has kept.',
    lines: [`(${show(v('input'))} − mean ${show(v('running_mean'))}) / √(variance ${show(v('running_var'))} + ${eps})` + (o.weight ? ` × ${show(v('weight'))}` : '') + (o.bias ? ` + ${show(v('bias'))}` : '')],
    python: `(${p('input')} - ${p('running_mean')}) / (${p('running_var')} + ${eps}) ** 0.5` + (o.weight ? ` * ${p('weight')}` : '') + (o.bias ? ` + ${p('bias')}` : '') }
}

const tellLayerNorm = (s, index, w) => {
  const { in: o } = s, d = s.args.normalized_shape.length, lead = index.slice(0, -d), { eps } = s.args
  const [mean, variance] = meanAndVariance(w.input.map(k => o.input.values[k])), all = lead.length ? item(o.input, lead) : python(o.input)
  const x = number(o.input, flatOf(s.shape, index)), p = role => number(o[role], w[role][0]), v = role => o[role].values[w[role][0]]
  return {
    words: `The number, less the mean of the ${w.input.length} that belong together, divided by their spread${o.weight ? ', then times the multiplier' : ''}${o.bias ? ', plus the adder' : ''}.`,
    lines: [`(${show(o.input.values[flatOf(s.shape, index)])} − mean ${show(mean)}) / √(variance ${show(variance)} + ${eps})` + (o.weight ? ` × ${show(v('weight'))}` : '') + (o.bias ? ` + ${show(v('bias'))}` : '')],
    python: `(${x} - ${all}.mean()) / (${all}.var(correction=0) + ${eps}) ** 0.5` + (o.weight ? ` * ${p('weight')}` : '') + (o.bias ? ` + ${p('bias')}` : '') }
}

// all along the dimensions in which a step looks, the rest as it is at `flat`
const alongside = (s, flat) => { const dims = dimensions(s); return item(s.in.input, indexOf(s.in.input.shape, flat).map((i, d) => dims.includes(d) ? ':' : i)) }

const tellSoftmax = (s, index, w) => {
  const x = s.in.input, flat = flatOf(s.shape, index), all = w.input.map(k => x.values[k]), highest = all.reduce(bigger)
  const sum = total(all.map(v => Math.exp(v - highest))), me = number(x, flat), line = alongside(s, flat)
  if (s.op === 'softmax') return {
    words: `exp of this output, divided by the sum of exp over all ${all.length}. The shares add up to 1. (The largest output is subtracted first: that changes no share, and no exp grows too large.)`,
    lines: [`exp(${show(x.values[flat])} − ${show(highest)}) = ${show(Math.exp(x.values[flat] - highest))}`, `sum of all ${all.length}: ${show(sum)}`],
    python: `(${me} - ${line}.max()).exp() / (${line} - ${line}.max()).exp().sum()` }
  return {
    words: `The logarithm of softmax: this output, less the logarithm of the sum of exp over all ${all.length}. exp of it is the probability: ${show(100 * Math.exp(s.values[flat]))}%.`,
    lines: [`${show(x.values[flat])} − log of the sum of exp, ${show(highest + Math.log(sum))}`],
    python: `${me} - ${line}.logsumexp(0)` }
}

const reductions = { sum: 'sum', mean: 'mean', var: 'variance', any: 'answer “is any of them not 0?”', amax: 'largest', amin: 'smallest', max: 'largest', min: 'smallest' }
const tellReduction = (s, index, w) => {
  const x = s.in.input, method = { amax: 'max', amin: 'min' }[s.op] || s.op
  const how = s.op === 'var' ? `correction=${s.args.correction ?? 1}` : ''
  return { words: `The ${reductions[s.op]} of ${many(w.input.length, 'number')}.`, python: `${w.input.length ? alongside(s, w.input[0]) : python(x)}.${method}(${how})`,
    list: w.input.map(k => x.values[k]) }
}

const tellEmbedding = (s, index, w) => {
  const { weight, indices } = s.in, row = indices.values[w.indices[0]], j = index[index.length - 1]
  return { words: `Looked up: number ${j} of row ${row} in the table of weights. The row is the one that the input names.`, lines: [`row ${row}, number ${j}: ${show(s.values[flatOf(s.shape, index)])}`],
    python: `${python(weight)}[${number(indices, w.indices[0])}, ${j}]` }
}

const symbols = { add: '+', sub: '-', mul: '*', div: '/', pow: '**', gt: '>', ge: '>=', lt: '<', le: '<=', eq: '==', ne: '!=' }
const spoken = { add: '+', sub: '−', mul: '×', div: '/', pow: '^', gt: '>', ge: '≥', lt: '<', le: '≤', eq: '=', ne: '≠' }
const sentences = {
  relu: 'Below 0 it becomes 0, else it stays as it is.', sigmoid: '1 / (1 + exp(−x)): any number is squeezed to between 0 and 1, as a gate.',
  tanh: 'tanh: any number is squeezed to between −1 and 1.', add: 'Two numbers at the same place are added.', mul: 'Two numbers at the same place are multiplied.',
  sub: 'The second number is subtracted from the first.', div: 'The first number is divided by the second.', exp: 'e to the power of the number.',
  leaky_relu: 'Below 0 only a small share of it is left, else it stays as it is.', neg: 'The sign is turned.', where: 'A choice between two numbers, by a condition.',
  ...Object.fromEntries(Object.entries({ gt: 'larger than', ge: 'at least', lt: 'smaller than', le: 'at most', eq: 'equal to', ne: 'other than' })
    .map(([op, how]) => [op, `Is the first number ${how} the second? 1 says yes, 0 says no.`])),
}
const tellPointwise = (s, index, w) => {
  const given = operations[s.op].roles, v = role => s.in[role] ? s.in[role].values[w[role][0]] : s.args[role]
  const p = role => s.in[role] ? number(s.in[role], w[role][0]) : literal(s.args[role]), { op } = s
  const words = sentences[op] || `${titles[op] || op}, number by number.`
  if (symbols[op]) {
    const [a, b] = given, alpha = s.args.alpha ?? 1, times = alpha === 1 ? '' : ` * ${alpha}`
    const text = `${p(a)} ${symbols[op]} ${p(b)}${times}`, whole = s.args.rounding_mode
    return { words, lines: [`${show(v(a))} ${spoken[op]} ${show(v(b))}${alpha === 1 ? '' : ` × ${alpha}`}`],
      python: whole ? `torch.div(${p(a)}, ${p(b)}, rounding_mode=${quoted(whole)})` : text }
  }
  const x = given[0] === 'condition' ? '' : p('input'), arg = role => s.in[role] || s.args[role] !== undefined ? p(role) : 'None'
  const named = (f, ...roles) => `torch.nn.functional.${f}(${[x, ...roles.filter(r => s.args[r] !== undefined).map(r => `${r}=${literal(s.args[r])}`)].join(', ')})`
  const code = {
    where: () => `torch.where(${p('condition')}, ${p('input')}, ${p('other')})`, maximum: () => `torch.maximum(${x}, ${p('other')})`,
    minimum: () => `torch.minimum(${x}, ${p('other')})`, clamp: () => `${x}.clamp(${arg('min')}, ${arg('max')})`, clamp_min: () => `${x}.clamp(min=${arg('min')})`,
    clamp_max: () => `${x}.clamp(max=${arg('max')})`, gelu: () => named('gelu', 'approximate'), leaky_relu: () => named('leaky_relu', 'negative_slope'),
    hardtanh: () => named('hardtanh', 'min_val', 'max_val'), elu: () => `torch.ops.aten.elu(${[x, s.args.alpha ?? 1, s.args.scale ?? 1, s.args.input_scale ?? 1].join(', ')})`,
  }
  const name = op === 'relu' ? 'max(0, ' : `${op}(`
  return { words, lines: [`${name}${given.filter(r => s.in[r]).map(r => show(v(r))).join(', ')})`], python: code[op] ? code[op]() : `${x}.${op}()` }
}

const telling = {
  convolution: tellConvolution, linear: tellProducts('input', 'weight', 'bias'), addmm: tellProducts('mat1', 'mat2', 'input'),
  mm: tellProducts('input', 'mat2'), bmm: tellProducts('input', 'mat2'), embedding: tellEmbedding, batch_norm: tellBatchNorm,
  layer_norm: tellLayerNorm, max_pool2d: tellPool, adaptive_max_pool2d: tellPool, avg_pool2d: tellPool, adaptive_avg_pool2d: tellPool,
  softmax: tellSoftmax, log_softmax: tellSoftmax, ...Object.fromEntries(Object.keys(reductions).map(op => [op, tellReduction])),
}

const whyNot = s => s.left ? `The ${count(s.left)} weights of this step are too many for a page` : `The page cannot compute “${s.op}”`

// One number of a step: { value, words, python, window }, and what there is to show of it: `parts` (what is multiplied),
// `sum`, `shift` (the bias), `grid` (numbers of a window), `list`, `lines` (figures as text), `winner` (a position)
const tell = (net, s, flat) => {
  const index = indexOf(s.shape, flat), told = { value: s.values[flat], index, window: net.window(s, flat) }
  if (s.op === 'input') return { ...told, words: 'A number of the input: nothing computed it.', python: number(s, flat) }
  if (!s.computed) return { ...told, words: `${whyNot(s)}: this number came from Python, and stays as it is when something before it is changed.`, python: number(s, flat) }
  return { ...told, ...(telling[s.op] || tellPointwise)(s, index, told.window) }
}

// Steps that come again and again with the same weights are one thing in time: { rows: [[step at time 0, at time 1, ...], ...] }
const inTime = steps => {
  const weights = s => Object.values(s.in).filter(o => o.op === 'weight')
  const keys = steps.map(s => [s.op, s.module, s.shape, ...weights(s).map(o => o.number)].join('|')), out = []
  for (let i = 0; i < steps.length;) {
    let best = { period: 1, times: 1 }
    for (let period = 1; 2 * period <= Math.min(120, steps.length - i); period++) {
      let times = 1
      while (range(0, period).every(k => keys[i + k] === keys[i + times * period + k])) times++
      if (times > 1 && times * period > best.times * best.period && steps.slice(i, i + period).some(s => weights(s).length)) best = { period, times }
    }
    const { period, times } = best
    if (times === 1) out.push(steps[i])
    else out.push({ rows: range(0, period).map(k => range(0, times).map(t => steps[i + t * period + k])) })
    i += period * times
  }
  return out
}

if (typeof document === 'undefined') { module.exports = { Net, Workbook, operations, tell, inTime, place, show, indexOf, flatOf }; return }

// ---- 3. the page -----------------------------------------------------------------------------------------------

// Two colours that the colour-blind can tell apart, those of the lessons' figures: red above 0, blue below, the paper's own
// colour at 0, and grey for what is no number.
const themes = {
  light: { paper: [255, 255, 255], above: [178, 24, 43], below: [33, 102, 172], none: [150, 150, 150], ink: [28, 30, 33], text: '#1c1e21', soft: '#6b7076' },
  dark: { paper: [24, 26, 30], above: [255, 120, 96], below: [92, 170, 255], none: [120, 120, 120], ink: [232, 234, 237], text: '#e8eaed', soft: '#9aa0a6' },
}
const mix = (theme, share) => {
  if (Number.isNaN(share)) return theme.none
  const to = share < 0 ? theme.below : theme.above, t = Math.min(1, Math.abs(share))
  return theme.paper.map((v, i) => v + (to[i] - v) * t)
}
const css = colour => `rgb(${colour.map(Math.round).join(' ')})`
// the theme's own text colour or its opposite, whichever can be read better on a colour
const luminance = colour => { const [r, g, b] = colour.map(v => (v / 255) ** 2.2); return 0.21 * r + 0.72 * g + 0.07 * b }
const readable = (theme, colour) => {
  const from = text => { const [a, b] = [luminance(text), luminance(colour)]; return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) }
  return from(theme.ink) >= from(theme.paper) ? theme.ink : theme.paper
}

// an element; text goes in as text, never as markup
const el = (tag, props = {}, ...children) => {
  const e = document.createElement(tag)
  for (const [k, v] of Object.entries(props)) {
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v)
    else if (k in e && !k.includes('-') && k !== 'list') e[k] = v
    else e.setAttribute(k, v)
  }
  e.append(...children.filter(c => c !== undefined && c !== null && c !== ''))
  return e
}

// a tensor as a picture: [channels, rows, columns], with dimensions of 1 left out
const picture = shape => {
  const s = shape.filter(n => n !== 1)
  return s.length < 2 ? [1, 1, s[0] ?? 1] : [sizeOf(s.slice(0, -2)), ...s.slice(-2)]
}

const limits = { channels: 512, pixels: 2e6, named: 40, bars: 256, views: 1500, lines: 16, formula: 1500 }

// One step on the page: a canvas, and where on it each number stands
class View {
  constructor(app, s, { small = false, names } = {}) {
    Object.assign(this, { app, s, small })
    const [C, H, W] = picture(s.shape)
    Object.assign(this, { H, W, all: C, C: Math.max(1, Math.min(C, limits.channels, Math.floor(limits.pixels / (H * W)))) })
    if (names && H === 1 && C === 1 && W <= limits.named) this.names = names
    this.kind = this.names ? 'named' : C === 1 && H === 1 ? W <= limits.bars ? 'bars' : 'wrapped' : 'pictures'
    this.tooLarge = H * W > limits.pixels
    this.canvas = el('canvas', { tabIndex: 0, role: 'slider', 'aria-roledescription': 'numbers of a layer', 'aria-label': app.label(s),
      'aria-valuemin': 0, 'aria-valuemax': s.size - 1, 'aria-valuenow': 0, 'aria-valuetext': many(s.size, 'number') })
    this.canvas.addEventListener('pointermove', e => this.moved(e))
    this.canvas.addEventListener('pointerdown', e => this.pressed(e))
    this.canvas.addEventListener('keydown', e => this.key(e))
    this.canvas.addEventListener('focus', () => { if (!app.pinned && app.chosen?.s !== s && this.canvas.matches(':focus-visible')) app.choose(s, 0) })
    this.dirty = true
  }

  // lay out for a width in CSS pixels
  measure(width) {
    const { H, W, C, small } = this
    let size
    if (this.kind === 'named') { this.row = 18; this.left = Math.min(110, width * 0.35); size = [Math.min(width, 420), W * this.row] }
    else if (this.kind === 'bars') { this.bar = Math.max(2, Math.min(small ? 9 : 16, width / W)); size = [this.bar * W, small ? 30 : 64] }
    else if (this.kind === 'wrapped') { this.px = 7; this.across = Math.max(8, Math.floor(Math.min(width, 560) / this.px)); size = [this.across * this.px, Math.ceil(W / this.across) * this.px] }
    else {
      const side = Math.max(H, W), target = small ? 64 : C === 1 ? 224 : C <= 4 ? 132 : C <= 16 ? 88 : C <= 64 ? 58 : 40
      const px = Math.min(small ? 9 : 15, target / side)
      this.px = Math.min(px >= 1 ? Math.floor(px) : px, width / W)
      this.gap = C > 64 ? 3 : 5
      this.across = Math.max(1, Math.min(C, Math.floor((width + this.gap) / (W * this.px + this.gap))))
      size = [this.across * (W * this.px + this.gap) - this.gap, Math.ceil(C / this.across) * (H * this.px + this.gap) - this.gap]
    }
    this.width = Math.max(1, size[0]); this.height = Math.max(1, size[1])
    this.canvas.style.width = `${this.width}px`; this.canvas.style.height = `${this.height}px`
    this.dirty = true
  }

  // where number `flat` stands: [x, y, width, height], or undefined for one that is not drawn
  rect(flat) {
    if (flat >= this.C * this.H * this.W) return undefined
    if (this.kind === 'named') return [0, flat * this.row, this.width, this.row]
    if (this.kind === 'bars') return [flat * this.bar, 0, this.bar, this.height]
    if (this.kind === 'wrapped') return [flat % this.across * this.px, Math.floor(flat / this.across) * this.px, this.px, this.px]
    const { H, W, px, gap } = this, c = Math.floor(flat / (H * W)), r = Math.floor(flat / W) % H, q = flat % W
    return [c % this.across * (W * px + gap) + q * px, Math.floor(c / this.across) * (H * px + gap) + r * px, px, px]
  }

  // which number stands there, -1 for none
  at(x, y) {
    let flat
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return -1
    if (this.kind === 'named') flat = Math.floor(y / this.row)
    else if (this.kind === 'bars') flat = Math.floor(x / this.bar)
    else if (this.kind === 'wrapped') flat = Math.floor(y / this.px) * this.across + Math.floor(x / this.px)
    else {
      const { H, W, px, gap } = this, a = W * px + gap, b = H * px + gap, i = Math.floor(x / a), j = Math.floor(y / b)
      const q = Math.floor((x - i * a) / px), r = Math.floor((y - j * b) / px)
      if (q >= W || r >= H || i >= this.across) return -1
      flat = ((j * this.across + i) * H + r) * W + q
    }
    return flat < this.C * this.H * this.W ? flat : -1
  }

  // rectangles around some numbers: one around all of a channel's where they fill it, else one each
  around(flats) {
    const groups = new Map(), plane = this.kind === 'pictures' ? this.H * this.W : Infinity
    for (const k of flats) { const c = Math.floor(k / plane); groups.has(c) ? groups.get(c).push(k) : groups.set(c, [k]) }
    const found = []
    for (const ks of groups.values()) {
      const rects = ks.map(k => this.rect(k)).filter(Boolean)
      if (!rects.length) continue
      const x0 = Math.min(...rects.map(r => r[0])), y0 = Math.min(...rects.map(r => r[1]))
      const x1 = Math.max(...rects.map(r => r[0] + r[2])), y1 = Math.max(...rects.map(r => r[1] + r[3]))
      const [, , w, h] = rects[0], filled = (x1 - x0) * (y1 - y0) < w * h * (rects.length + 0.5)
      found.push(...(filled || rects.length > 400 ? [[x0, y0, x1 - x0, y1 - y0]] : rects))
    }
    return found
  }

  paint() {
    this.dirty = false
    const { canvas, s, C, H, W } = this, { theme } = this.app, sharp = window.devicePixelRatio || 1, g = canvas.getContext('2d')
    canvas.width = Math.round(this.width * sharp); canvas.height = Math.round(this.height * sharp)
    g.scale(this.width ? canvas.width / this.width : 1, this.height ? canvas.height / this.height : 1)
    let scale = 0, none = 0
    for (const v of s.values) if (Number.isFinite(v)) { const a = Math.abs(v); if (a > scale) scale = a } else none++
    this.scale = scale || 1
    this.app.complain(this, none ? `${count(none)} of ${many(s.size, 'number')} ${none === 1 ? 'is' : 'are'} NaN or infinite, and drawn in grey.` : '')
    if (this.kind === 'named' || this.kind === 'bars') return this.paintBars(g, theme)
    // one pixel for each number, then enlarged without smoothing
    const drawn = C * H * W, wrapped = this.kind === 'wrapped', across = this.across
    const w = wrapped ? across : across * W, h = wrapped ? Math.ceil(W / across) : Math.ceil(C / across) * H
    const image = g.createImageData(w, h), { paper, above, below, none: grey } = theme
    for (let k = 0; k < drawn; k++) {
      const v = s.values[k] / this.scale, to = Number.isFinite(v) ? v < 0 ? below : above : grey, t = Number.isFinite(v) ? Math.abs(v) : 1
      let at = k
      if (!wrapped) { const c = Math.floor(k / (H * W)), r = Math.floor(k / W) % H; at = (Math.floor(c / across) * H + r) * w + c % across * W + k % W }
      for (let i = 0; i < 3; i++) image.data[4 * at + i] = paper[i] + (to[i] - paper[i]) * t
      image.data[4 * at + 3] = 255
    }
    const small = el('canvas', { width: w, height: h })
    small.getContext('2d').putImageData(image, 0, 0)
    g.imageSmoothingEnabled = false
    if (wrapped) { g.drawImage(small, 0, 0, w * this.px, h * this.px); return }
    g.strokeStyle = theme.soft; g.lineWidth = 0.5; g.globalAlpha = 0.6
    for (let c = 0; c < C; c++) {
      const i = c % across, j = Math.floor(c / across), x = i * (W * this.px + this.gap), y = j * (H * this.px + this.gap)
      g.globalAlpha = 1; g.drawImage(small, i * W, j * H, W, H, x, y, W * this.px, H * this.px)
      g.globalAlpha = 0.5; g.strokeRect(x + 0.25, y + 0.25, W * this.px - 0.5, H * this.px - 0.5)
    }
  }

  paintBars(g, theme) {
    const { values } = this.s, named = this.kind === 'named'
    let low = 0, high = 0
    for (const v of values) if (Number.isFinite(v)) { low = Math.min(low, v); high = Math.max(high, v) }
    const span = high - low || 1
    g.font = '12px system-ui, sans-serif'; g.textBaseline = 'middle'
    for (let k = 0; k < this.W; k++) {
      const v = values[k], ok = Number.isFinite(v)
      g.fillStyle = css(ok ? v < 0 ? theme.below : theme.above : theme.none)
      if (named) {
        const left = this.left + 6, room = this.width - left - 62, y = k * this.row, a = left + (Math.min(0, ok ? v : 0) - low) / span * room
        g.fillRect(a, y + 3, ok ? Math.max(1, Math.abs(v) / span * room) : room, this.row - 6)
        g.fillStyle = theme.text
        g.textAlign = 'right'; g.fillText(this.names[k], this.left, y + this.row / 2 + 1, this.left)
        g.textAlign = 'left'; g.fillText(show(v), this.width - 56, y + this.row / 2 + 1, 56)
      } else {
        const top = (high - Math.max(0, ok ? v : high)) / span * (this.height - 1)
        g.fillRect(k * this.bar + (this.bar > 4 ? 1 : 0), top, this.bar - (this.bar > 4 ? 1 : 0), ok ? Math.max(1, Math.abs(v) / span * (this.height - 1)) : this.height)
      }
    }
    g.fillStyle = theme.soft
    if (named) g.fillRect(this.left + 6 - low / span * (this.width - this.left - 68), 0, 1, this.height)
    else g.fillRect(0, high / span * (this.height - 1), this.width, 1)
  }

  flatOfEvent(e) {      // a border would shift the numbers by its width
    const box = this.canvas.getBoundingClientRect()
    return this.at(e.clientX - box.left - this.canvas.clientLeft, e.clientY - box.top - this.canvas.clientTop)
  }
  moved(e) {
    if (this.app.pinned || e.pointerType === 'touch') return
    const flat = this.flatOfEvent(e)
    if (flat >= 0) this.app.choose(this.s, flat)
  }
  pressed(e) {
    const flat = this.flatOfEvent(e), { app } = this
    if (flat < 0) return
    const again = app.pinned && app.chosen.s === this.s && app.chosen.flat === flat
    app.pin(false); app.choose(this.s, flat); app.pin(!again)
  }
  key(e) {
    const { app, s, W, H } = this, from = app.chosen?.s === s ? app.chosen.flat : 0, row = this.kind === 'wrapped' ? this.across : this.kind === 'named' ? 1 : W
    const to = { ArrowRight: from + 1, ArrowLeft: from - 1, ArrowDown: from + row, ArrowUp: from - row, PageDown: from + H * W, PageUp: from - H * W,
      Home: 0, End: s.size - 1 }[e.key]
    if (to !== undefined) { e.preventDefault(); if (to >= 0 && to < s.size) { const was = app.pinned; app.pin(false); app.choose(s, to); app.pin(was) } }
    else if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); if (app.chosen?.s !== s) app.choose(s, 0); app.pin(!app.pinned) }
    else if (e.key === 'Escape') app.pin(false)
  }
}

class App {
  constructor(root, payload) {
    Object.assign(this, { root, payload, net: new Net(payload), views: new Map(), refreshers: [], pinned: false, timer: null })
    const { net } = this
    if (payload.workbook?.sheets) this.workbook = new Workbook(net, payload.workbook)
    root.dataset.lmSuppressShortcuts = 'true'      // in JupyterLab, keys pressed in here are ours
    this.main = net.inputs.find(s => s.shape.length === 4 && s.shape[0] === 1)
    this.build()
    this.look()
    new ResizeObserver(() => this.measure()).observe(root)
    this.seen = new IntersectionObserver(list => { for (const { target, isIntersecting } of list) target.view.seen = isIntersecting; this.draw() }, { rootMargin: '300px' })
    for (const v of this.views.values()) { v.canvas.view = v; this.seen.observe(v.canvas) }
    this.measure()
    const first = [...this.views.values()].find(v => v.s.op === 'convolution') || [...this.views.values()].find(v => v.s.computed)
    if (first) this.choose(first.s, Math.floor(first.H / 2) * first.W + Math.floor(first.W / 2))
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.look())
    new MutationObserver(() => this.look()).observe(document.body, { attributes: true, attributeFilter: ['data-jp-theme-light', 'class', 'data-theme'] })
  }

  label(s) { return (this.payload.names || {})[s.name] || s.name }

  // ---- what stands on the page
  build() {
    const { net, payload } = this, classes = payload.classes
    this.layers = el('div', { className: 'layers' })
    const steps = [...net.inputs, ...net.steps], sections = inTime(steps.filter(s => !net.inputs.includes(s)))
    let left = limits.views
    for (const s of net.inputs) this.layers.append(this.section(s))
    for (const part of sections) {
      const cost = part.rows ? part.rows.length * part.rows[0].length : 1
      left -= cost
      if (left < 0) { this.layers.append(el('p', { className: 'message' }, 'The steps from here on are computed, but they are too many to draw.')); break }
      this.layers.append(part.rows ? this.sequence(part.rows) : this.section(part, net.outputs.includes(part) ? classes : undefined))
    }
    const svg = name => document.createElementNS('http://www.w3.org/2000/svg', name)
    this.overlay = svg('svg'); this.overlay.setAttribute('class', 'overlay'); this.overlay.setAttribute('aria-hidden', 'true')
    this.marks = {}
    for (const name of ['lines', 'halo', 'window', 'winner', 'here']) { this.marks[name] = svg('path'); this.marks[name].setAttribute('class', name); this.overlay.append(this.marks[name]) }
    this.layers.append(this.overlay)
    this.scroller = el('div', { className: 'net', role: 'group', 'aria-label': 'the net, from the input to the answer' }, this.layers)
    this.buildPanel()
    this.root.replaceChildren(
      el('div', { className: 'head' }, el('span', { className: 'title' }, payload.title), el('span', { className: 'hint' }, 'Hover or tap a number; click pins it; arrow keys move.'),
        this.legend = el('span', { className: 'legend', 'aria-label': 'red is above 0, blue below' }, el('i', { className: 'below' }), '−', el('i', { className: 'zero' }), '0', el('i', { className: 'above' }), '+')),
      this.tools(), el('div', { className: 'body' }, this.scroller, this.panel))
  }

  section(s, names) {
    const view = new View(this, s, { names }), shape = s.shape.length ? s.shape.join('×') : 'one number'
    this.views.set(s, view)
    view.note = el('p', { className: 'message', hidden: true })
    const head = el('div', { className: 'name' }, el('b', {}, this.label(s)), el('span', {}, `${titles[s.op] || s.op} · ${shape}`))
    const section = el('section', { className: 'step' }, head)
    if (s.size === 0) { section.append(el('p', { className: 'message' }, 'There are no numbers in it.')); view.canvas.hidden = true }
    else if (view.tooLarge) { section.append(el('p', { className: 'message' }, `${count(s.size)} numbers are too many to draw. They are computed, and what follows goes on from them.`)); view.canvas.hidden = true }
    section.append(view.canvas, view.note)
    if (view.C < view.all && !view.tooLarge) section.append(el('p', { className: 'message' }, `Drawn are the first ${count(view.C)} of ${count(view.all)} channels.`))
    if (!s.computed && s.op !== 'input') section.append(el('p', { className: 'message' }, `${whyNot(s)}: these numbers come from Python, and stay as they are.`))
    this.editable(s, head, section)
    return section
  }

  // to a convolution belong a button and, below the pictures, what it opens
  editable(s, head, section) {
    if (s.op !== 'convolution' || s.left) return
    const place = el('div', { className: 'editor', hidden: true })
    const button = el('button', { type: 'button', 'aria-expanded': 'false', onclick: () => {
      if (!place.firstChild) this.editor(s, place)
      place.hidden = !place.hidden; button.setAttribute('aria-expanded', String(!place.hidden)); this.measure()
    } }, 'Change kernels')
    head.append(button); section.append(place)
  }

  // a row for each operation, a column for each step in time
  sequence(rows) {
    const about = `${rows[0].length} steps in time, from left to right; each column goes on from the one before`, table = el('table', { 'aria-label': about })
    table.append(el('tr', {}, el('th', { scope: 'col' }, 'time'), ...rows[0].map((_, t) => el('th', { scope: 'col' }, String(t)))))
    const section = el('section', { className: 'step sequence' }, el('p', { className: 'when' }, about), el('div', { className: 'scroll', onscroll: () => this.chosen && this.mark() }, table))
    for (const row of rows) {
      const head = el('th', { scope: 'row' }, this.label(row[0]).replace(/_\d+$/, ''), el('small', {}, titles[row[0].op] || row[0].op))
      this.editable(row[0], head, section)      // its kernels are those of all steps in time
      table.append(el('tr', {}, head, ...row.map(s => {
        const view = new View(this, s, { small: true })
        this.views.set(s, view)
        view.note = el('p', { className: 'message', hidden: true })
        return el('td', {}, view.canvas, view.note)
      })))
    }
    return section
  }

  complain(view, text) { if (view.note.textContent !== text) { view.note.textContent = text; view.note.hidden = !text } }

  // ---- pictures to choose from, a pad to draw on, the answer
  tools() {
    const { main, net, payload } = this, bar = el('div', { className: 'tools' })
    this.pictures = (payload.pictures || []).map(p => new Float32Array(numbersIn(p)))
    if (main) {
      this.range = [Infinity, -Infinity]
      for (const v of this.pictures.length ? this.pictures : [main.data]) for (const x of v) if (Number.isFinite(x)) { if (x < this.range[0]) this.range[0] = x; if (x > this.range[1]) this.range[1] = x }
    }
    if (main && this.pictures.length > 1) {
      this.thumbs = this.pictures.map((values, i) => el('button', { type: 'button', className: 'thumb', 'aria-label': `picture ${i + 1}`, 'aria-pressed': String(i === 0), onclick: () => this.give(values, i) }, this.thumb(values)))
      bar.append(el('div', { className: 'strip', role: 'group', 'aria-label': 'other pictures' }, ...this.thumbs))
    }
    const [, C, H, W] = main ? main.shape : []
    if (main && C === 1 && H >= 8 && W >= 8 && H <= 64 && W <= 64) bar.append(this.pad(H, W))
    this.answer = el('div', { className: 'answer', role: 'status', 'aria-live': 'polite', 'aria-label': 'the answer' })
    if (net.outputs[0] && net.outputs[0].size > 1 && net.outputs[0].size <= 1000 && net.outputs[0].values) bar.append(this.answer)
    return bar
  }

  thumb(values) {
    const [, C, H, W] = this.main.shape, canvas = el('canvas', { width: W, height: H }), g = canvas.getContext('2d'), image = g.createImageData(W, H), [low, high] = this.range
    for (let k = 0; k < H * W; k++) {
      for (let i = 0; i < 3; i++) image.data[4 * k + i] = 255 * (values[(C === 3 ? i : 0) * H * W + k] - low) / (high - low || 1)
      image.data[4 * k + 3] = 255
    }
    g.putImageData(image, 0, 0)
    return canvas
  }

  give(values, i = -1) {
    this.main.values.set(values)
    if (this.takeOver && i >= 0) this.takeOver(values)
    if (this.thumbs) this.thumbs.forEach((b, k) => b.setAttribute('aria-pressed', String(k === i)))
    this.update(new Set([this.main]))
  }

  pad(H, W) {
    const px = Math.floor(140 / Math.max(H, W)), ink = new Float32Array(H * W), canvas = el('canvas', { className: 'paper', width: W * px, height: H * px, role: 'img', 'aria-label': `a pad of ${H} by ${W} to draw on with the mouse` })
    const g = canvas.getContext('2d'), radius = Math.max(H, W) / 28 * 1.15
    let last = null
    const paint = () => {
      for (let k = 0; k < H * W; k++) { g.fillStyle = css(this.theme.paper.map((v, i) => v + (this.theme.ink[i] - v) * ink[k])); g.fillRect(k % W * px, Math.floor(k / W) * px, px, px) }
    }
    const dab = (x, y) => {
      for (let r = Math.max(0, Math.floor(y - 2 * radius - 1)); r <= Math.min(H - 1, y + 2 * radius); r++) for (let q = Math.max(0, Math.floor(x - 2 * radius - 1)); q <= Math.min(W - 1, x + 2 * radius); q++) {
        const near = Math.max(0, Math.min(1, 1.4 - Math.hypot(q + 0.5 - x, r + 0.5 - y) / radius * 0.9))
        ink[r * W + q] = Math.max(ink[r * W + q], near)
      }
    }
    const draw = e => {
      const box = canvas.getBoundingClientRect(), x = (e.clientX - box.left - canvas.clientLeft) / canvas.clientWidth * W, y = (e.clientY - box.top - canvas.clientTop) / canvas.clientHeight * H
      const steps = last ? Math.ceil(Math.hypot(x - last[0], y - last[1]) * 2) || 1 : 1
      for (let i = 1; i <= steps; i++) last ? dab(last[0] + (x - last[0]) * i / steps, last[1] + (y - last[1]) * i / steps) : dab(x, y)
      last = [x, y]
      paint()
      const [low, high] = this.range
      this.give(ink.map(v => low + v * (high - low)))
    }
    canvas.addEventListener('pointerdown', e => { e.preventDefault(); canvas.setPointerCapture(e.pointerId); last = null; draw(e) })
    canvas.addEventListener('pointermove', e => { if (canvas.hasPointerCapture(e.pointerId)) draw(e) })
    this.paintPad = paint
    this.takeOver = values => { const [low, high] = this.range; values.forEach((v, k) => { ink[k] = (v - low) / (high - low || 1) }); paint() }
    ink.set(this.main.values.map(v => (v - this.range[0]) / (this.range[1] - this.range[0] || 1)))
    const clear = el('button', { type: 'button', onclick: () => { ink.fill(0); paint(); this.give(ink.map(() => this.range[0])) } }, 'Clear')
    return el('div', { className: 'pad' }, canvas, el('div', {}, clear, el('span', {}, 'and draw with the mouse')))
  }

  // the largest three of the answer
  tellAnswer() {
    const out = this.net.outputs[0]
    if (!out || !this.answer.isConnected && !this.answer.parentNode) return
    const { classes } = this.payload, n = out.shape[out.shape.length - 1] || 1, from = out.size - n     // of a sequence: the last
    const values = Array.from(out.values.subarray(from)), sure = out.op === 'softmax' || out.op === 'log_softmax'
    const amounts = out.op === 'log_softmax' ? values.map(Math.exp) : values
    const rank = k => Number.isNaN(amounts[k]) ? -Infinity : amounts[k], best = range(0, n).sort((a, b) => rank(b) - rank(a) || a - b).slice(0, 3)
    this.answer.replaceChildren(el('span', { className: 'label' }, sure ? 'answer' : 'largest'), ...best.map(k => el('div', { className: 'guess' },
      el('bdi', {}, classes && classes[k] !== undefined ? String(classes[k]) : `number ${k}`),
      el('i', {}, (() => { const b = el('i'); b.style.width = sure ? `${100 * amounts[k]}%` : '0'; return b })()),
      el('span', {}, sure ? `${(100 * amounts[k]).toFixed(1)}%` : show(amounts[k])))))
  }

  // ---- kernels to change
  editor(s, box) {
    const weight = s.in.weight, bias = s.in.bias?.op === 'weight' ? s.in.bias : undefined, [F, D] = weight.shape, [planes, rows, columns] = three(weight.shape.slice(2), 1)
    const n = planes * rows * columns, { net } = this
    // the numbers of the kernels stand in a weight or a constant; `weight` may show them turned or cut
    const spots = range(0, weight.size).map(k => net.cell(weight, k)).map(cell => cell < 0 ? [] : net.owner(cell))
    if (spots.some(([owner]) => !owner || !['weight', 'constant'].includes(owner.op)))
      return box.append(el('p', { className: 'message' }, 'The net computes these kernels from other numbers: there is nothing to change here.'))
    const owners = new Set(spots.map(([owner]) => owner)), span = Math.max(1, ...[...owners].map(o => o.data.reduce((most, v) => Math.abs(v) > most ? Math.abs(v) : most, 0))) * 2
    let f = 0, c = 0, focus = Math.floor(n / 2)
    const spot = k => spots[(f * D + c) * n + k]
    const get = k => { const [owner, at] = spot(k); return owner.values[at] }
    const set = (k, v) => { const [owner, at] = spot(k); owner.values[at] = v }
    const change = todo => { todo(); for (const refresh of this.refreshers) refresh(); this.update(new Set(bias ? [...owners, bias] : owners)) }
    const choice = (label, size, set) => el('label', {}, `${label} `, el('select', { onchange: e => { set(Number(e.target.value)); refresh() } }, ...range(0, size).map(i => el('option', { value: i }, String(i)))))
    const name = k => [planes > 1 && `plane ${Math.floor(k / columns / rows)}`, `row ${Math.floor(k / columns) % rows}`, `column ${k % columns}`].filter(Boolean).join(', ')
    const inputs = range(0, n).map(k => el('input', { type: 'number', step: 'any', 'aria-label': name(k),
      onfocus: () => { focus = k; refresh() }, oninput: e => { const v = e.target.valueAsNumber; if (Number.isFinite(v)) change(() => set(k, v)) } }))
    const slider = el('input', { type: 'range', min: -span, max: span, step: span / 100, 'aria-label': 'the number that is chosen', oninput: e => change(() => set(focus, e.target.valueAsNumber)) })
    const shift = bias && el('input', { type: 'number', step: 'any', oninput: e => { const v = e.target.valueAsNumber; if (Number.isFinite(v)) change(() => { bias.values[f] = v }) } })
    const named = this.payload.kernels && n === 9 && rows === 3 && el('label', {}, 'named ', el('select', { onchange: e => { this.payload.kernels[e.target.value]?.forEach((v, k) => set(k, v)); change(() => {}) } },
      el('option', { value: '' }, 'choose …'), ...Object.keys(this.payload.kernels).map(name => el('option', { value: name }, name))))
    // what is being typed stays as it is typed
    const write = (input, v) => { if (document.activeElement !== input || Math.abs(input.valueAsNumber - v) > 1e-6) input.value = String(Number(v.toFixed(4))) }
    const refresh = () => {
      inputs.forEach((input, k) => { const v = get(k); write(input, v); const share = Math.max(-1, Math.min(1, v / span * 2)); input.style.background = css(mix(this.theme, share * 0.6)); input.classList.toggle('chosen', k === focus) })
      slider.value = String(get(focus))
      if (shift) write(shift, bias.values[f])
    }
    const grid = el('div', { className: n > 49 ? 'kernel large' : 'kernel' }, ...inputs)
    grid.style.gridTemplateColumns = `repeat(${columns}, minmax(3.4em, ${n > 49 ? 3.4 : 4.6}em))`
    const reset = el('button', { type: 'button', onclick: () => change(() => { for (const o of bias ? [...owners, bias] : owners) o.values.set(o.data); if (named) named.querySelector('select').value = '' }) }, 'As it was')
    box.append(el('div', { className: 'row' }, choice('kernel', F, v => { f = v }), D > 1 ? choice('channel', D, v => { c = v }) : '', named || ''), el('div', { className: 'scroll' }, grid),
      el('div', { className: 'row' }, slider, shift ? el('label', {}, 'bias ', shift) : '', reset))
    this.refreshers.push(refresh)
    refresh()
  }

  // ---- computing and drawing anew
  update(changed) {
    for (const s of this.net.run(changed)) { const v = this.views.get(s); if (v) v.dirty = true }
    this.draw()
    this.tellAnswer()
    if (this.chosen) this.choose(this.chosen.s, this.chosen.flat, true)
  }

  draw() {
    if (this.drawing) return
    this.drawing = requestAnimationFrame(() => {
      this.drawing = null
      for (const v of this.views.values()) if (v.dirty && v.width && v.seen !== false && !v.canvas.hidden) {
        try { v.paint() } catch (error) { v.canvas.hidden = true; this.complain(v, `This part cannot be drawn: ${error.message}`) }
      }
    })
  }

  measure() {
    const width = this.root.clientWidth
    if (!width) return
    this.root.classList.toggle('narrow', width < 760)
    const room = this.scroller.clientWidth - 28
    for (const v of this.views.values()) { v.measure(v.small ? 72 : Math.max(120, room)); v.canvas.view = v }
    this.draw()
    if (this.chosen) this.mark()
  }

  // light or dark: as the page behind
  look() {
    let dark = matchMedia('(prefers-color-scheme: dark)').matches
    for (let e = this.root.parentElement; e; e = e.parentElement) {
      const text = getComputedStyle(e).backgroundColor, [r, g, b, a = 1] = (text.match(/[\d.]+/g) || []).map(Number)
      if (a > 0.5 && r !== undefined) { dark = (0.21 * r + 0.72 * g + 0.07 * b) * (text.startsWith('color') ? 255 : 1) < 110; break }
    }
    this.root.dataset.theme = dark ? 'dark' : 'light'
    this.theme = themes[this.root.dataset.theme]
    for (const v of this.views.values()) v.dirty = true
    if (this.paintPad) this.paintPad()
    for (const refresh of this.refreshers) refresh()
    this.draw()
    this.tellAnswer()
    if (this.chosen) this.choose(this.chosen.s, this.chosen.flat, true)
  }

  // ---- one number under the mouse
  choose(s, flat, again = false) {
    if (!again && this.chosen && this.chosen.s === s && this.chosen.flat === flat) return
    const told = tell(this.net, s, flat)
    this.chosen = { s, flat, told }
    // drawn with the next frame, once, however many events come before it; what reads the layout comes first
    this.telling ??= requestAnimationFrame(() => { this.telling = null; this.mark(); this.fill(this.chosen.told) })
    const canvas = this.views.get(s)?.canvas
    if (canvas) { canvas.setAttribute('aria-valuenow', flat); canvas.setAttribute('aria-valuetext', `${place(s.shape, told.index)}: ${show(told.value)}`) }
  }

  pin(on) {
    this.pinned = on
    this.root.classList.toggle('pinned', on)
    this.pinButton.textContent = on ? 'Release' : 'Pin'
    this.pinButton.setAttribute('aria-pressed', String(on))
  }

  // rectangles and lines over the pictures
  mark() {
    const { s, flat, told } = this.chosen, base = this.layers.getBoundingClientRect(), view = this.views.get(s)
    const path = rects => rects.map(([x, y, w, h]) => `M${x} ${y}h${w}v${h}h${-w}z`).join('')
    const put = (v, rects) => { const box = v.canvas.getBoundingClientRect(), dx = box.left - base.left, dy = box.top - base.top; return rects.map(([x, y, w, h]) => [x + dx, y + dy, w, h]) }
    const clear = () => { for (const m of Object.values(this.marks)) m.removeAttribute('d') }
    const own = view && !view.canvas.hidden && view.rect(flat)
    if (!own) return clear()
    const here = put(view, [own])[0], byView = new Map()
    for (const [role, positions] of Object.entries(told.window)) for (const k of positions) {
      const cell = this.net.cell(s.in[role], k)
      if (cell < 0) continue
      const [owner, at] = this.net.owner(cell), v = this.views.get(owner)
      if (v && !v.canvas.hidden) byView.has(v) ? byView.get(v).push(at) : byView.set(v, [at])
    }
    const windows = [...byView].flatMap(([v, flats]) => put(v, v.around(flats)))
    let winner = []
    if (told.winner !== undefined) {
      const [owner, at] = this.net.owner(this.net.cell(s.in.input, told.winner)), v = this.views.get(owner)
      if (v && v.rect(at)) winner = put(v, [v.rect(at)])
    }
    const lines = windows.slice(0, limits.lines).map(([x, y, w, h]) => {
      const below = y + h <= here[1], above = y >= here[1] + here[3]
      const a = below ? y + h : above ? y : y + h / 2, b = below ? here[1] : above ? here[1] + here[3] : here[1] + here[3] / 2
      return `M${x} ${a}L${here[0]} ${b}M${x + w} ${a}L${here[0] + here[2]} ${b}`
    })
    this.marks.window.setAttribute('d', path(windows)); this.marks.halo.setAttribute('d', path([...windows, here]))
    this.marks.winner.setAttribute('d', path(winner)); this.marks.lines.setAttribute('d', lines.join('')); this.marks.here.setAttribute('d', path([here]))
  }

  buildPanel() {
    this.pinButton = el('button', { type: 'button', 'aria-pressed': 'false', onclick: () => this.pin(!this.pinned) }, 'Pin')
    this.play = el('button', { type: 'button', 'aria-label': 'play through all positions', onclick: () => this.timer ? this.stop() : this.run() }, '▶')
    this.slider = el('input', { type: 'range', min: 0, value: 0, 'aria-label': 'position in this layer', oninput: e => { this.stop(); this.to(e.target.valueAsNumber) } })
    this.inside = el('div', { className: 'inside' })
    this.panel = el('aside', { className: 'panel', 'aria-label': 'the number under the mouse' }, el('div', { className: 'walk' }, this.play, this.slider, this.pinButton), this.inside)
  }

  to(flat) { const was = this.pinned; this.pin(false); this.choose(this.chosen.s, flat); this.pin(was) }
  run() {
    this.play.textContent = '❚❚'; this.pin(true)
    this.timer = setInterval(() => { if (!this.root.isConnected) return this.stop(); this.to((this.chosen.flat + 1) % this.chosen.s.size) }, 140)
  }
  stop() { clearInterval(this.timer); this.timer = null; this.play.textContent = '▶' }

  // numbers as a small table on the two colours; `winner` is marked
  grid(values, columns, winner) {
    const scale = Math.max(1e-12, ...values.map(v => Number.isFinite(v) ? Math.abs(v) : 0)), { theme } = this, wide = columns > 4, table = el('table', { className: wide ? 'numbers wide' : 'numbers' })
    for (let r = 0; r < values.length; r += columns) {
      table.append(el('tr', {}, ...values.slice(r, r + columns).map((v, i) => {
        const share = v / scale, cell = el('td', { className: r + i === winner ? 'winner' : '' }, wide ? brief(v) : show(v))
        const colour = mix(theme, Number.isFinite(share) ? share : NaN)
        cell.style.background = css(colour); cell.style.color = css(readable(theme, colour))
        return cell
      })))
    }
    return table
  }

  fill(told) {
    const { s, flat } = this.chosen, out = []
    out.push(el('div', { className: 'value' }, el('b', {}, show(told.value)), el('span', {}, `${titles[s.op] || s.op} ${this.label(s)} · ${place(s.shape, told.index)}`)))
    out.push(el('p', { className: 'words' }, told.words))
    if (told.parts) out.push(...this.parts(told, s))
    if (told.grid) out.push(this.grid(told.grid.a.slice(0, 100), told.grid.columns, told.grid.winner))
    if (told.list) out.push(this.grid(told.list.slice(0, 64), Math.min(8, told.list.length)), told.list.length > 64 ? el('p', { className: 'more' }, `and ${count(told.list.length - 64)} more`) : '')
    for (const text of told.lines || []) out.push(el('p', { className: 'figures' }, text))
    if (!told.parts && s.op !== 'input') out.push(el('p', { className: 'figures total' }, `= ${show(told.value)}`))
    out.push(el('div', { className: 'code' }, el('span', {}, 'Python, with t = trace(model, x)'), el('code', {}, told.python)))
    const [cell, formula = ''] = this.workbook ? this.workbook.cell(s, flat) : []
    if (cell) out.push(el('div', { className: 'code' }, el('span', {}, 'the cell of the spreadsheet (to_spreadsheet)'), el('code', {}, `${cell} ${formula.length > limits.formula ? `${formula.slice(0, limits.formula)} …` : formula}`)))
    else if (this.payload.workbook?.none) out.push(el('div', { className: 'code' }, el('span', {}, `no spreadsheet: ${this.payload.workbook.none}`)))
    if (s.line) out.push(el('div', { className: 'code' }, el('span', {}, 'the line of the model'), el('code', {}, s.line)))
    this.inside.replaceChildren(...out.filter(Boolean))
    this.panel.dataset.step = s.name; this.panel.dataset.flat = flat; this.panel.dataset.value = told.value
    this.slider.max = s.size - 1; this.slider.value = flat
  }

  // where the number stands that is multiplied in product `k`: in the picture of its step, if it was only moved since
  where(s, told, k) {
    const role = ['input', 'mat1'].find(r => told.window[r] && told.window[r].length > 1) || Object.keys(told.window)[0]
    const cell = this.net.cell(s.in[role], told.window[role][k])
    if (cell < 0) return 'constant'
    const [owner, at] = this.net.owner(cell)
    return place(owner.shape, indexOf(owner.shape, at))
  }

  // window times kernel, channel by channel; of many channels those that weigh most
  parts(told, s) {
    const { parts } = told, out = [], n = parts[0] ? parts[0].a.length : 0, small = n <= 49 && parts.length > 1 || n <= 25
    if (small) {
      const order = range(0, parts.length).sort((a, b) => Math.abs(parts[b].sum) - Math.abs(parts[a].sum)).slice(0, n > 25 ? 2 : 4).sort((a, b) => a - b)
      for (const i of order) {
        const p = parts[i], columns = s.op === 'convolution' ? p.columns : Math.min(n, 5)
        out.push(el('div', { className: 'times' }, el('span', { className: 'label' }, p.label), this.grid(p.a, columns), el('span', {}, '×'), this.grid(p.b, columns), el('span', { className: 'sum' }, `= ${show(p.sum)}`)))
      }
      if (order.length < parts.length) {
        const rest = total(parts.filter((_, i) => !order.includes(i)).map(p => p.sum))
        out.push(el('p', { className: 'more' }, `the other ${many(parts.length - order.length, 'channel')}, which weigh less: ${show(rest)}`))
      }
    } else {
      const { a, b } = parts.length === 1 ? parts[0] : { a: parts.flatMap(p => p.a), b: parts.flatMap(p => p.b) }, p = products(a, b)
      const best = range(0, a.length).sort((i, j) => Math.abs(p[j]) - Math.abs(p[i])).slice(0, 8)
      const table = el('table', { className: 'products' }, el('tr', {}, ...['where', 'value', 'weight', 'product'].map(t => el('th', { scope: 'col' }, t))))
      for (const k of best) table.append(el('tr', {}, ...[this.where(s, told, k), show(a[k]), show(b[k]), show(p[k])].map(t => el('td', {}, String(t)))))
      out.push(table)
      if (a.length > best.length) out.push(el('p', { className: 'more' }, `the other ${count(a.length - best.length)}, which weigh less: ${show(total(p) - total(best.map(k => p[k])))}`))
    }
    out.push(el('p', { className: 'figures total' }, told.shift === undefined ? `sum = ${show(told.value)}` : `sum ${show(told.sum)} + bias ${show(told.shift)} = ${show(told.value)}`))
    return out
  }
}

// every net on the page that is not yet alive; two may be the very same
for (const root of document.querySelectorAll('.lessondl-explore:not([data-theme])')) {
  const data = root.querySelector('script[type="application/json"]')
  if (!data) continue
  root.dataset.theme = 'light'
  try { root.app = new App(root, JSON.parse(data.textContent)) } catch (error) {
    root.append(el('p', { className: 'message' }, `This net cannot be shown alive: ${error.message}`))
    console.error(error)
  }
}
})()
