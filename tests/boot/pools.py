"""Work shared among processes and interpreters, by every way Python has. Prints ``well`` at the end."""

import concurrent.futures
import multiprocessing
from multiprocessing import shared_memory


def square(number):
    return number * number


def main():
    expected = [number * number for number in range(40)]
    for method in "fork", "spawn", "forkserver":
        with multiprocessing.get_context(method).Pool(4) as pool:
            assert pool.map(square, range(40)) == expected, method
        print(method, flush=True)
    for executor in concurrent.futures.ProcessPoolExecutor, concurrent.futures.InterpreterPoolExecutor:
        with executor(4) as pool:
            assert list(pool.map(square, range(40))) == expected, executor
        print(executor.__name__, flush=True)
    with multiprocessing.Manager() as manager:
        shared = manager.dict(answer=42)
        assert dict(shared) == {"answer": 42}
    memory = shared_memory.SharedMemory(create=True, size=10)
    again = shared_memory.SharedMemory(memory.name)
    memory.buf[3] = 7
    assert again.buf[3] == 7
    again.close()
    memory.close()
    memory.unlink()
    print("well")


if __name__ == "__main__":
    main()
