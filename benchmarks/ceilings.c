/* What this machine can do at most: bytes read a second, and 8-bit multiplications and additions.
 *
 *     cc -O3 -march=native -fopenmp ceilings.c -o ceilings && ./ceilings THREADS
 *
 * Prints one JSON object. Reading: every 64-byte line of 1 GiB on huge pages, from the best number
 * of places at once, with prefetches at the best distance. Arithmetic: byte dot products on
 * registers alone; 0 where the processor has none.
 */
#define _GNU_SOURCE
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

enum { LINE = 64, PASSES = 4, STEPS = 40000000 };
static const size_t SIZE = (size_t)1 << 30;

typedef int64_t line_t __attribute__((vector_size(LINE)));

/* A thread reads several places in turn, which keeps more of the memory busy than one. */
static int64_t read_part(const char *from, size_t size, size_t places, size_t ahead) {
    line_t sums[4] = {0};
    size_t each = size / places / (4 * LINE) * (4 * LINE);
    for (size_t at = 0; at < each; at += 4 * LINE) {
        for (size_t place = 0; place < places; place++) {
            const char *here = from + place * each + at;
            for (int i = 0; i < 4; i++) {
                if (ahead) __builtin_prefetch(here + ahead + i * LINE, 0, 0);
                sums[i] += *(const line_t *)(here + i * LINE);
            }
        }
    }
    int64_t sum = 0;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 8; j++) sum += sums[i][j];
    return sum;
}

static double read_rate(int n_threads) {
    char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 0;
#ifdef MADV_HUGEPAGE
    madvise(memory, SIZE, MADV_HUGEPAGE);
#endif
    memset(memory, 1, SIZE);
    double best = 0;
    volatile int64_t kept = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        for (size_t places = 1; places <= 8; places *= 2) {
            for (size_t ahead = 0; ahead <= 8192; ahead = ahead ? ahead * 2 : 512) {
                int64_t sum = 0;
                double start = omp_get_wtime();
#pragma omp parallel num_threads(n_threads) reduction(+ : sum)
                {
                    size_t part = SIZE / (size_t)n_threads / LINE * LINE;
                    const char *from = memory + part * (size_t)omp_get_thread_num();
                    sum += read_part(from, part, places, ahead);
                }
                double rate = (double)SIZE / (omp_get_wtime() - start);
                kept += sum;
                if (rate > best) best = rate;
            }
        }
    }
    munmap(memory, SIZE);
    return best / 1e9;
}

#if defined(__AVX512VNNI__)
enum { BYTES = 64 };
typedef __m512i lanes_t;
#define DOT(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#define ONES(x) _mm512_set1_epi8(x)
#elif defined(__AVXVNNI__)
enum { BYTES = 32 };
typedef __m256i lanes_t;
#define DOT(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#define ONES(x) _mm256_set1_epi8(x)
#endif

/* The empty instruction keeps the compiler from leaving a product out. */
#define STEP(sum)          \
    sum = DOT(sum, a, b); \
    __asm__ volatile("" : "+x"(sum));

static double dot_rate(int n_threads) {
#ifdef DOT
    double best = 0;
    volatile int kept = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        double start = omp_get_wtime();
#pragma omp parallel num_threads(n_threads)
        {
            lanes_t a = ONES(1), b = ONES(2), s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a;
            lanes_t s6 = a, s7 = a, s8 = a, s9 = a, s10 = a, s11 = a;
            for (int step = 0; step < STEPS; step += 12) {
                STEP(s0) STEP(s1) STEP(s2) STEP(s3) STEP(s4) STEP(s5)
                STEP(s6) STEP(s7) STEP(s8) STEP(s9) STEP(s10) STEP(s11)
            }
            s0 ^= s1 ^ s2 ^ s3 ^ s4 ^ s5 ^ s6 ^ s7 ^ s8 ^ s9 ^ s10 ^ s11;
            int bits = (int)s0[0];
#pragma omp critical
            kept ^= bits;
        }
        double operations = 2.0 * BYTES * (STEPS / 12 * 12) * n_threads;
        double rate = operations / (omp_get_wtime() - start);
        if (rate > best) best = rate;
    }
    return best / 1e9;
#else
    (void)n_threads;
    return 0;
#endif
}

int main(int count, char **words) {
    int n_threads = count > 1 ? atoi(words[1]) : 1;
    if (n_threads < 1) return 2;
    printf("{\"read\": %.3f, \"int8\": %.1f}\n", read_rate(n_threads), dot_rate(n_threads));
    return 0;
}
