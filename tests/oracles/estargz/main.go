// The reference library of eStargz and zstd:chunked as a judge and as a peer.
//
//	oracle check BLOB TOC_DIGEST      opens, verifies, reads every chunk of every file; prints JSON
//	oracle build LAYER OUT LEVEL CHUNK [PRIORITIZED...]
//	                                  builds as ctr-remote does; prints JSON with times
//	oracle build-zstd LAYER OUT LEVEL CHUNK
//	                                  the same in zstd:chunked, with the level nearest to zstd's
//	oracle entries TAR...             what archive/tar reads in each; prints JSON
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
)

type file struct {
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Size     int64             `json:"size"`
	Digest   string            `json:"digest,omitempty"`
	Link     string            `json:"link,omitempty"`
	Mode     int64             `json:"mode"`
	UID      int               `json:"uid"`
	GID      int               `json:"gid"`
	User     string            `json:"user"`
	Group    string            `json:"group"`
	ModTime  int64             `json:"mtime"`
	Xattrs   map[string][]byte `json:"xattrs,omitempty"`
	DevMajor int               `json:"major"`
	DevMinor int               `json:"minor"`
	Chunks   int               `json:"chunks"`
	Offset   int64             `json:"offset"`
}

type report struct {
	TOCDigest string `json:"tocDigest"`
	DiffID    string `json:"diffID"`
	Size      int64  `json:"size"`
	Files     []file `json:"files"`
	// TarNames are the archive's entries as Go's archive/tar gives them, in order.
	TarNames []string `json:"tarNames"`
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func open(path string) (*os.File, *io.SectionReader) {
	f, err := os.Open(path)
	fail(err)
	st, err := f.Stat()
	fail(err)
	return f, io.NewSectionReader(f, 0, st.Size())
}

func inflated(r io.Reader) io.Reader {
	head := bufio.NewReader(r)
	magic, err := head.Peek(4)
	fail(err)
	if bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		zr, err := zstd.NewReader(head)
		fail(err)
		return zr
	}
	gz, err := gzip.NewReader(head)
	fail(err)
	return gz
}

func check(path, want string) {
	f, section := open(path)
	defer f.Close()
	r, err := estargz.Open(section, estargz.WithDecompressors(new(zstdchunked.Decompressor)))
	fail(err)
	tocDigest, err := digest.Parse(want)
	fail(err)
	verifier, err := r.VerifyTOC(tocDigest)
	fail(err)
	out := report{TOCDigest: r.TOCDigest().String()}
	root, ok := r.Lookup("")
	if !ok {
		fail(fmt.Errorf("no root"))
	}
	seen := map[string]bool{}
	var walk func(e *estargz.TOCEntry, at string)
	walk = func(e *estargz.TOCEntry, at string) {
		if seen[at] {
			return
		}
		seen[at] = true
		one := file{Name: at, Type: e.Type, Size: e.Size, Digest: e.Digest, Link: e.LinkName, Mode: e.Mode, UID: e.UID, GID: e.GID,
			User: e.Uname, Group: e.Gname, ModTime: e.ModTime().Unix(), Xattrs: e.Xattrs, DevMajor: e.DevMajor, DevMinor: e.DevMinor, Offset: e.Offset}
		if e.Type == "reg" && e.Size > 0 {
			whole := sha256.New()
			data, err := r.OpenFile(e.Name)
			fail(err)
			for at := int64(0); at < e.Size; {
				chunk, ok := r.ChunkEntryForOffset(e.Name, at)
				if !ok {
					fail(fmt.Errorf("%s: no chunk at %d", e.Name, at))
				}
				v, err := verifier.Verifier(chunk)
				fail(err)
				n := chunk.ChunkSize
				if n == 0 {
					n = e.Size - chunk.ChunkOffset
				}
				_, err = io.Copy(io.MultiWriter(v, whole), io.NewSectionReader(data, chunk.ChunkOffset, n))
				fail(err)
				if !v.Verified() {
					fail(fmt.Errorf("%s: chunk at %d does not verify", e.Name, at))
				}
				at += n
				one.Chunks++
			}
			if got := fmt.Sprintf("sha256:%x", whole.Sum(nil)); got != e.Digest {
				fail(fmt.Errorf("%s: digest %s, table says %s", e.Name, got, e.Digest))
			}
		}
		out.Files = append(out.Files, one)
		e.ForeachChild(func(base string, child *estargz.TOCEntry) bool {
			p := base
			if at != "" {
				p = at + "/" + base
			}
			if child.Type == "dir" || child.NumLink <= 1 || !seen[p] {
				walk(child, p)
			}
			return true
		})
	}
	walk(root, "")
	sort.Slice(out.Files, func(i, j int) bool { return out.Files[i].Name < out.Files[j].Name })

	_, err = section.Seek(0, io.SeekStart)
	fail(err)
	diff := sha256.New()
	counted := io.TeeReader(inflated(section), diff)
	tr := tar.NewReader(counted)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		fail(err)
		out.TarNames = append(out.TarNames, h.Name)
		n, err := io.Copy(io.Discard, tr)
		fail(err)
		out.Size += n
	}
	_, err = io.Copy(io.Discard, counted)
	fail(err)
	out.DiffID = fmt.Sprintf("sha256:%x", diff.Sum(nil))
	fail(json.NewEncoder(os.Stdout).Encode(out))
}

type zstdCompression struct {
	*zstdchunked.Compressor
	*zstdchunked.Decompressor
}

func build(args []string, chunked bool) {
	level, err := strconv.Atoi(args[2])
	fail(err)
	chunk, err := strconv.Atoi(args[3])
	fail(err)
	f, section := open(args[0])
	defer f.Close()
	dst, err := os.Create(args[1])
	fail(err)
	start := time.Now()
	options := []estargz.Option{estargz.WithCompressionLevel(level), estargz.WithChunkSize(chunk)}
	if len(args) > 4 {
		var missing []string
		options = append(options, estargz.WithPrioritizedFiles(args[4:]), estargz.WithAllowPrioritizeNotFound(&missing))
	}
	metadata := map[string]string{}
	if chunked {
		compressor := &zstdchunked.Compressor{CompressionLevel: zstd.EncoderLevelFromZstd(level), Metadata: metadata}
		options = append(options, estargz.WithCompression(&zstdCompression{compressor, new(zstdchunked.Decompressor)}))
	}
	blob, err := estargz.Build(section, options...)
	fail(err)
	size, err := io.Copy(dst, blob)
	fail(err)
	fail(blob.Close())
	fail(dst.Close())
	wall := time.Since(start)
	var usage syscall.Rusage
	fail(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	fail(json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"size": size, "wall": wall.Seconds(), "rss": usage.Maxrss * 1024,
		"cpu":       float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9,
		"diffID":    blob.DiffID().String(),
		"tocDigest": blob.TOCDigest().String(),
		"metadata":  metadata,
	}))
}

type entry struct {
	Name, Link, User, Group []byte
	Type                    string
	Size, Mode              int64
	UID, GID                int
	Seconds, Nanoseconds    int64
	Major, Minor            int64
	Xattrs                  map[string][]byte
	Content                 string
}

type archive struct {
	Entries []entry
	Error   string
}

func read(path string) (found archive) {
	f, _ := open(path)
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		content := sha256.New()
		if err == nil {
			_, err = io.Copy(content, r)
		}
		if err != nil {
			found.Error = err.Error()
			return
		}
		xattrs := map[string][]byte{}
		for key, value := range h.PAXRecords {
			if strings.HasPrefix(key, "SCHILY.xattr.") && h.Typeflag != tar.TypeXGlobalHeader {
				xattrs[strings.TrimPrefix(key, "SCHILY.xattr.")] = []byte(value)
			}
		}
		found.Entries = append(found.Entries, entry{
			[]byte(h.Name), []byte(h.Linkname), []byte(h.Uname), []byte(h.Gname), string(h.Typeflag), h.Size, h.Mode, h.Uid, h.Gid,
			h.ModTime.Unix(), int64(h.ModTime.Nanosecond()), h.Devmajor, h.Devminor, xattrs, fmt.Sprintf("%x", content.Sum(nil)),
		})
	}
}

func entries(paths []string) {
	found := []archive{}
	for _, path := range paths {
		found = append(found, read(path))
	}
	fail(json.NewEncoder(os.Stdout).Encode(map[string]interface{}{"archives": found}))
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "check" {
		check(os.Args[2], os.Args[3])
		return
	}
	if len(os.Args) >= 6 && (os.Args[1] == "build" || os.Args[1] == "build-zstd") {
		build(os.Args[2:], os.Args[1] == "build-zstd")
		return
	}
	if len(os.Args) >= 3 && os.Args[1] == "entries" {
		entries(os.Args[2:])
		return
	}
	fmt.Fprintln(os.Stderr, "oracle check BLOB TOC_DIGEST | build[-zstd] LAYER OUT LEVEL CHUNK [PRIORITIZED...] | entries TAR...")
	os.Exit(2)
}
