package tree

import "chancery/mls/syntax"

// encodeEach writes values as a vector.
func encodeEach[T any](b *syntax.Builder, values []T, encode func(*syntax.Builder, T)) {
	b.Vector(func(b *syntax.Builder) {
		for _, v := range values {
			encode(b, v)
		}
	})
}

// decodeEach reads a vector of values.
func decodeEach[T any](r *syntax.Reader, decode func(*syntax.Reader) T) []T {
	var values []T
	r.Each(func(r *syntax.Reader) { values = append(values, decode(r)) })
	return values
}

// encodeCodes and decodeCodes handle vectors of registered values.
func encodeCodes[T ~uint16](b *syntax.Builder, codes []T) {
	b.Length(2 * len(codes))
	for _, c := range codes {
		b.Uint16(uint16(c))
	}
}

func decodeCodes[T ~uint16](r *syntax.Reader) []T {
	return decodeEach(r, func(r *syntax.Reader) T { return T(r.Uint16()) })
}
