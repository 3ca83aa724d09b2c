# Reads the tests without running anything, for the host to count them.


def main():
    job = take_job()
    record = reporter(3, job["nonce"])
    try:
        style, names = read_tests(job["tests"])
        record(tests=names)
    except Broken as error:
        record(broken=str(error))
    record(done=True)


main()
