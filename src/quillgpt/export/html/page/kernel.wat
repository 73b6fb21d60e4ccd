;; The two matrix-vector products of a decode step: out[r] = sum over c of weight[r, c] * x[c], with SIMD.
;;
;; Pointers, strides and lengths are in bytes, except $rows. A row has a multiple of 32 columns. Sums are float32.
;; wasmtime's `wat2wasm` assembles this file to kernel.wasm; a test does so again and compares the bytes.
(module
  (import "page" "memory" (memory 1))

  ;; The four lanes of a vector, added up.
  (func $sum (param $v v128) (result f32)
    (f32.add
      (f32.add (f32x4.extract_lane 0 (local.get $v)) (f32x4.extract_lane 1 (local.get $v)))
      (f32.add (f32x4.extract_lane 2 (local.get $v)) (f32x4.extract_lane 3 (local.get $v)))))

  ;; Weights in float32. $stride is from one row to the next; $width is the length of x.
  (func (export "f32_rows")
    (param $weight i32) (param $stride i32) (param $x i32) (param $width i32) (param $out i32) (param $rows i32)
    (local $w i32) (local $at i32) (local $end i32)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (local.set $end (i32.add (local.get $out) (i32.shl (local.get $rows) (i32.const 2))))
    (loop $row
      (local.set $a (v128.const i32x4 0 0 0 0))
      (local.set $b (v128.const i32x4 0 0 0 0))
      (local.set $c (v128.const i32x4 0 0 0 0))
      (local.set $d (v128.const i32x4 0 0 0 0))
      (local.set $w (local.get $weight))
      (local.set $at (i32.const 0))
      (loop $columns
        (local.set $a (f32x4.add (local.get $a) (f32x4.mul
          (v128.load (i32.add (local.get $w) (local.get $at)))
          (v128.load (i32.add (local.get $x) (local.get $at))))))
        (local.set $b (f32x4.add (local.get $b) (f32x4.mul
          (v128.load offset=16 (i32.add (local.get $w) (local.get $at)))
          (v128.load offset=16 (i32.add (local.get $x) (local.get $at))))))
        (local.set $c (f32x4.add (local.get $c) (f32x4.mul
          (v128.load offset=32 (i32.add (local.get $w) (local.get $at)))
          (v128.load offset=32 (i32.add (local.get $x) (local.get $at))))))
        (local.set $d (f32x4.add (local.get $d) (f32x4.mul
          (v128.load offset=48 (i32.add (local.get $w) (local.get $at)))
          (v128.load offset=48 (i32.add (local.get $x) (local.get $at))))))
        (local.set $at (i32.add (local.get $at) (i32.const 64)))
        (br_if $columns (i32.lt_u (local.get $at) (local.get $width))))
      (f32.store (local.get $out) (call $sum (f32x4.add
        (f32x4.add (local.get $a) (local.get $b)) (f32x4.add (local.get $c) (local.get $d)))))
      (local.set $weight (i32.add (local.get $weight) (local.get $stride)))
      (local.set $out (i32.add (local.get $out) (i32.const 4)))
      (br_if $row (i32.lt_u (local.get $out) (local.get $end)))))

  ;; Weights of 8 bits in groups of 32 columns, each with a scale in float32; $width is the length of x.
  (func (export "q8_rows")
    (param $weight i32) (param $scale i32) (param $x i32) (param $width i32) (param $out i32) (param $rows i32)
    (local $at i32) (local $end i32) (local $stop i32) (local $eight v128) (local $a v128) (local $b v128) (local $total v128)
    (local.set $end (i32.add (local.get $out) (i32.shl (local.get $rows) (i32.const 2))))
    (local.set $stop (i32.add (local.get $x) (local.get $width)))
    (loop $row
      (local.set $total (v128.const i32x4 0 0 0 0))
      (local.set $at (local.get $x))
      (loop $group
        (local.set $eight (v128.load8x8_s (local.get $weight)))
        (local.set $a (f32x4.mul (v128.load (local.get $at))
          (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $eight)))))
        (local.set $b (f32x4.mul (v128.load offset=16 (local.get $at))
          (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $eight)))))
        (local.set $eight (v128.load8x8_s offset=8 (local.get $weight)))
        (local.set $a (f32x4.add (local.get $a) (f32x4.mul (v128.load offset=32 (local.get $at))
          (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $eight))))))
        (local.set $b (f32x4.add (local.get $b) (f32x4.mul (v128.load offset=48 (local.get $at))
          (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $eight))))))
        (local.set $eight (v128.load8x8_s offset=16 (local.get $weight)))
        (local.set $a (f32x4.add (local.get $a) (f32x4.mul (v128.load offset=64 (local.get $at))
          (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $eight))))))
        (local.set $b (f32x4.add (local.get $b) (f32x4.mul (v128.load offset=80 (local.get $at))
          (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $eight))))))
        (local.set $eight (v128.load8x8_s offset=24 (local.get $weight)))
        (local.set $a (f32x4.add (local.get $a) (f32x4.mul (v128.load offset=96 (local.get $at))
          (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $eight))))))
        (local.set $b (f32x4.add (local.get $b) (f32x4.mul (v128.load offset=112 (local.get $at))
          (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $eight))))))
        (local.set $total (f32x4.add (local.get $total) (f32x4.mul
          (f32x4.add (local.get $a) (local.get $b)) (v128.load32_splat (local.get $scale)))))
        (local.set $weight (i32.add (local.get $weight) (i32.const 32)))
        (local.set $scale (i32.add (local.get $scale) (i32.const 4)))
        (local.set $at (i32.add (local.get $at) (i32.const 128)))
        (br_if $group (i32.lt_u (local.get $at) (local.get $stop))))
      (f32.store (local.get $out) (call $sum (local.get $total)))
      (local.set $out (i32.add (local.get $out) (i32.const 4)))
      (br_if $row (i32.lt_u (local.get $out) (local.get $end))))))
