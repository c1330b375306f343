"""A data set by its name, and the loader that makes batches of it."""

from torch.utils.data import DataLoader

from data_provider.data_loader import Dataset_Custom, Dataset_ETT_hour, Dataset_ETT_minute

data_dict = {
    "ETTh1": Dataset_ETT_hour,
    "ETTh2": Dataset_ETT_hour,
    "ETTm1": Dataset_ETT_minute,
    "ETTm2": Dataset_ETT_minute,
    "ECL": Dataset_Custom,
    "Traffic": Dataset_Custom,
    "Weather": Dataset_Custom,
}


def data_provider(args, flag):
    """The data set ``args.data``, of which ``flag`` says the part, and its loader; what is tested with comes in order."""
    data_set = data_dict[args.data](
        root_path=args.root_path,
        data_path=args.data_path,
        flag=flag,
        size=[args.seq_len, args.label_len, args.pred_len],
        features=args.features,
        target=args.target,
        timeenc=int(args.embed == "timeF"),
        freq=args.freq,
        percent=args.percent,
    )
    data_loader = DataLoader(
        data_set,
        batch_size=args.batch_size,
        shuffle=flag != "test",
        num_workers=args.num_workers,
        drop_last=True,
    )
    return data_set, data_loader
